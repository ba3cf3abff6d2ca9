package main

import (
	"bytes"
	"testing"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// R10: a clone has its template's TPM and secrets unless the spec says otherwise; clones of what is
// encrypted need a privilege of their own.
func TestEncryptedTemplates(t *testing.T) {
	r := newRig(t, func(d *Description) {
		d.Templates[0].VTPM = true
		d.Users = append(d.Users, UserDescription{Name: "plain@lab.local", Role: "admin", Without: []string{"Cryptographer.Clone"}})
	})
	template := r.certificate(r.template())
	spec := r.plainSpec("esx-01")
	if copied := r.certificate(r.clone("copied", spec)); !bytes.Equal(copied, template) {
		t.Error("an unset policy gives a clone a TPM of its own")
	}
	spec.TpmProvisionPolicy = newTPM
	if own := r.certificate(r.clone("own", spec)); bytes.Equal(own, template) {
		t.Error("the clone has the template's TPM")
	}
	spec.TpmProvisionPolicy = "none"
	if _, ok := r.fails(r.startClone("bad", spec), nil).(*types.InvalidArgument); !ok {
		t.Error("unexpected fault")
	}
	plain := object.NewVirtualMachine(r.login("plain@lab.local").Client, r.template().Reference())
	_, err := plain.Clone(r.ctx, object.NewFolder(plain.Client(), r.lab.vmFolder), "refused", r.plainSpec("esx-01"))
	if f, ok := faultOf(t, err).(*types.NoPermission); !ok || f.PrivilegeId != "Cryptographer.Clone" {
		t.Errorf("%v", err)
	}
}

func (r *rig) certificate(vm *object.VirtualMachine) []byte {
	r.Helper()
	var m mo.VirtualMachine
	must(r.T, vm.Properties(r.ctx, vm.Reference(), []string{"config"}, &m))
	if m.Config.KeyId == nil {
		r.Error("it is not encrypted")
	}
	for _, device := range m.Config.Hardware.Device {
		if tpm, ok := device.(*types.VirtualTPM); ok {
			return tpm.EndorsementKeyCertificate[0]
		}
	}
	r.Error("it has no TPM")
	return nil
}
