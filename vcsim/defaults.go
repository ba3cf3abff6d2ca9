package main

// fill sets missing fields to the values of the reference deployment.
func (d *Description) fill() {
	orElse(&d.About.Name, "gpuvm lab: simulated vCenter Server")
	orElse(&d.About.Version, "8.0.3")
	orElse(&d.About.Build, "24022515")
	orElse(&d.About.APIVersion, "8.0.3.0")
	orElse(&d.InstanceUUID, stableUUID("vcenter", d.About.Name))
	orElse(&d.Datacenter, "Lab")
	orElse(&d.Cluster, "GPU-Cluster")
	orElse(&d.Automation, automationLevels[0])
	orElse(&d.AddressBlock, "127.77.0.0/16")
	if d.GuestinfoUpdates == nil {
		all := true
		d.GuestinfoUpdates = &all
	}
	if len(d.Networks) == 0 {
		d.Networks = []string{"VM Network"}
	}
	if len(d.Datastores) == 0 {
		free := int64(6000)
		d.Datastores = []DatastoreDescription{{Name: "vsanDatastore", CapacityGiB: 8192, FreeGiB: &free}}
	}
	for i := range d.Datastores {
		d.Datastores[i].fill()
	}
	for i := range d.Hosts {
		d.Hosts[i].fill()
	}
	for i := range d.Templates {
		d.Templates[i].fill()
	}
	for i := range d.VMs {
		d.VMs[i].fill()
	}
	if len(d.Users) == 0 {
		d.Users = defaultUsers()
	}
	for i := range d.Users {
		orElse(&d.Users[i].Role, "admin")
	}
}

func (s *DatastoreDescription) fill() {
	orElse(&s.CapacityGiB, 8192)
	if s.FreeGiB == nil {
		free := s.CapacityGiB
		s.FreeGiB = &free
	}
}

func (h *HostDescription) fill() {
	orElse(&h.Vendor, "Dell Inc.")
	orElse(&h.Model, "PowerEdge R730")
	orElse(&h.CPUCores, 28)
	orElse(&h.CPUMHz, 2400)
	orElse(&h.MemoryGiB, 256)
	if h.HypervisorGiB == nil {
		own := min(4, float64(h.MemoryGiB)/16)
		h.HypervisorGiB = &own
	}
	orElse(&h.SystemUUID, stableUUID("host", h.Name))
	orElse(&h.GraphicsType, shared)
	for i := range h.GPUs {
		h.GPUs[i].fill()
	}
}

func (g *GPUDescription) fill() {
	orElse(&g.ClassID, 0x0302)
	orElse(&g.VendorName, "NVIDIA Corporation")
	orElse(&g.DependentDevice, g.PCIAddress)
	orElse(&g.MemoryGiB, 16)
	if g.Passthrough == nil {
		g.Passthrough = &Passthrough{Capable: true, Enabled: true, Active: true}
	}
	if len(g.BARsMiB) == 0 {
		g.BARsMiB = []int64{16, powerOfTwo(g.MemoryGiB * 1024), 32}
	}
}

func (t *TemplateDescription) fill() {
	orElse(&t.GuestID, "centos7_64Guest")
	orElse(&t.Firmware, "efi")
	orElse(&t.HardwareVersion, "vmx-17")
	orElse(&t.CPUs, 8)
	orElse(&t.CoresPerSocket, 1)
	orElse(&t.MemoryGiB, 32)
	orElse(&t.DiskGiB, 40)
	if t.NICs == nil {
		one := 1
		t.NICs = &one
	}
}

func (v *VMDescription) fill() {
	orElse(&v.Name, "unrelated-{i}")
	orElse(&v.Power, "on")
	orElse(&v.MemoryGiB, 4)
	orElse(&v.CPUs, 2)
	if v.Count == nil {
		one := 1
		v.Count = &one
	}
}

func defaultUsers() []UserDescription {
	return []UserDescription{
		{Name: "administrator@lab.local", Role: "admin"},
		{Name: "readonly@lab.local", Role: "readonly"},
		{Name: "nodevices@lab.local", Role: "admin", Without: []string{"VirtualMachine.Config.AddRemoveDevice"}},
		{Name: "tools@lab.local", Role: "tools"},
	}
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func powerOfTwo(n int64) int64 {
	p := int64(1)
	for p < n {
		p *= 2
	}
	return p
}
