package main

import (
	"slices"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/types"
)

const newTPM = "replace" // TpmProvisionPolicy: the clone gets a TPM of its own; unset copies it

// encrypt gives a template's configuration what an encrypted VM has, and a virtual TPM where requested.
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

// replaceTPM is what the policy says of a clone's devices.
func replaceTPM(devices []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	replaced := slices.Clone(devices)
	for i, device := range replaced {
		if _, ok := device.(*types.VirtualTPM); ok {
			replaced[i] = freshTPM()
		}
	}
	return replaced
}
