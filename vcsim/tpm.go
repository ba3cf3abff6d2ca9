package main

import (
	"slices"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
)

const newTPM = "replace" // TpmProvisionPolicy: the clone gets a new TPM; if unset, the TPM is copied

// encrypt marks a template's configuration as encrypted, and adds a virtual TPM where requested.
func (t *TemplateDescription) encrypt(config *types.VirtualMachineConfigInfo) {
	if t.VTPM || t.Encrypted {
		config.KeyId = &types.CryptoKeyId{KeyId: uuid.NewString(), ProviderId: &types.KeyProviderId{Id: "lab"}}
	}
	if t.VTPM {
		config.Hardware.Device = append(config.Hardware.Device, freshTPM())
	}
}

func freshTPM() *types.VirtualTPM {
	tpm := &types.VirtualTPM{EndorsementKeyCertificate: [][]byte{[]byte(uuid.NewString())}}
	tpm.Key = 11000
	return tpm
}

// replaceTPM returns a clone's devices with a new TPM.
func replaceTPM(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	replaced := slices.Clone(devices)
	for i, device := range replaced {
		if _, ok := device.(*types.VirtualTPM); ok {
			replaced[i] = freshTPM()
		}
	}
	return replaced
}
