package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// Description is the lab's shape as data. Sizes are whole numbers in the unit of their name.
type Description struct {
	About        AboutDescription           `json:"about"`
	InstanceUUID string                     `json:"instance_uuid"`
	Datacenter   string                     `json:"datacenter"`
	Cluster      string                     `json:"cluster"`
	DRS          bool                       `json:"drs"`
	Automation   string                     `json:"drs_automation"`
	VGPUsMove    bool                       `json:"vgpu_evacuation"` // DRS moves them when a host enters maintenance mode
	Networks     []string                   `json:"networks"`
	Opaque       []string                   `json:"opaque_networks"`
	AddressBlock string                     `json:"address_block"`
	Datastores   []DatastoreDescription     `json:"datastores"`
	Policies     []StoragePolicyDescription `json:"storage_policies"`
	Hosts        []HostDescription          `json:"hosts"`
	Templates    []TemplateDescription      `json:"templates"`
	VMs          []VMDescription            `json:"vms"`
	Timings      Timings                    `json:"timings"`

	GuestinfoUpdates *bool             `json:"guestinfo_updates"` // whether updates include what guests set
	Users            []UserDescription `json:"users"`
	SessionIdleS     float64           `json:"session_idle_s"`

	Permissions []PermissionDescription `json:"permissions"`
	Locale      string                  `json:"locale"` // of sessions that request none; English if empty
}

type AboutDescription struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Build      string `json:"build"`
	APIVersion string `json:"api_version"`
}

type DatastoreDescription struct {
	Name        string `json:"name"`
	CapacityGiB int64  `json:"capacity_gib"`
	FreeGiB     *int64 `json:"free_gib"`

	Hosts       []string `json:"hosts"` // that have it mounted; all if empty
	ReadOnlyOn  []string `json:"read_only_on"`
	LostOn      []string `json:"lost_on"` // hosts that have lost all paths to it
	Maintenance bool     `json:"maintenance"`
}

type StoragePolicyDescription struct {
	Name         string `json:"name"`
	ID           string `json:"id"`
	DataServices bool   `json:"data_services"`
}

type HostDescription struct {
	Name                string           `json:"name"`
	Vendor              string           `json:"vendor"`
	Model               string           `json:"model"`
	CPUCores            int              `json:"cpu_cores"`
	CPUMHz              int              `json:"cpu_mhz"`
	MemoryGiB           int64            `json:"memory_gib"`
	HypervisorGiB       *float64         `json:"hypervisor_gib"` // memory that ESXi reserves for itself
	Version             string           `json:"version"`        // of its ESXi; the vCenter's if empty
	SystemUUID          string           `json:"system_uuid"`
	GraphicsType        string           `json:"graphics_type"`
	RebindWithoutReboot bool             `json:"rebind_without_reboot"`
	NoReboot            bool             `json:"no_reboot"` // it cannot be rebooted through the API
	GPUs                []GPUDescription `json:"gpus"`

	DeviceGroups []DeviceGroupDescription `json:"device_groups"`
}

// GPUDescription is a PCI function. Ids are unsigned here and signed shorts in the API.
type GPUDescription struct {
	PCIAddress      string        `json:"pci_address"`
	VendorID        uint16        `json:"vendor_id"`
	DeviceID        uint16        `json:"device_id"`
	SubVendorID     uint16        `json:"sub_vendor_id"`
	SubDeviceID     uint16        `json:"sub_device_id"`
	ClassID         uint16        `json:"class_id"`
	VendorName      string        `json:"vendor_name"`
	Name            string        `json:"name"`
	MemoryGiB       int64         `json:"memory_gib"`
	BARsMiB         []int64       `json:"bars_mib"`
	Passthrough     *Passthrough  `json:"passthrough"`
	DependentDevice string        `json:"dependent_device"`
	HardwareLabel   string        `json:"hardware_label"`
	GraphicsType    string        `json:"graphics_type"` // the host's if empty
	VGPUProfiles    []VGPUProfile `json:"vgpu_profiles"`
}

type Passthrough struct {
	Capable bool `json:"capable"`
	Enabled bool `json:"enabled"`
	Active  bool `json:"active"`
}

type VGPUProfile struct {
	Name           string `json:"name"`
	FramebufferGiB int64  `json:"framebuffer_gib"`
}

type TemplateDescription struct {
	Name            string            `json:"name"`
	GuestID         string            `json:"guest_id"`
	Firmware        string            `json:"firmware"`
	VTPM            bool              `json:"vtpm"`      // it has a virtual TPM, and is encrypted for it
	Encrypted       bool              `json:"encrypted"` // its files are encrypted
	HardwareVersion string            `json:"hardware_version"`
	CPUs            int32             `json:"cpus"`
	CoresPerSocket  int32             `json:"cores_per_socket"`
	MemoryLimitGiB  *int64            `json:"memory_limit_gib"` // no limit if unset
	MemoryGiB       int64             `json:"memory_gib"`
	DiskGiB         int64             `json:"disk_gib"`
	DiskUsedGiB     *int64            `json:"disk_used_gib"` // used space of a thin disk; the disk is thick if unset
	Host            string            `json:"host"`
	Datastore       string            `json:"datastore"`
	NICs            *int              `json:"nics"`
	Snapshot        string            `json:"snapshot"`
	ExtraConfig     map[string]string `json:"extra_config"`
}

// VMDescription describes Count VMs that are unrelated to gpuvm; {i} in the name is the number of
// each, from 1. Only the first of them gets the GPU, because a GPU has one holder.
type VMDescription struct {
	Name      string `json:"name"`
	Count     *int   `json:"count"`
	Power     string `json:"power"`
	Host      string `json:"host"`
	GPU       string `json:"gpu"`
	MemoryGiB int64  `json:"memory_gib"`
	CPUs      int32  `json:"cpus"`
	DRS       string `json:"drs"`   // of this VM; overrides its cluster's
	Agent     bool   `json:"agent"` // vSphere Cluster Services; {uuid} in the name is a new UUID
}

// automationLevels are the values of drs_automation and of a VM's drs.
var automationLevels = []string{
	string(types.DrsBehaviorFullyAutomated), string(types.DrsBehaviorPartiallyAutomated), string(types.DrsBehaviorManual),
}

const drsDisabled = "disabled" // for one VM

// Timings are the durations of the simulated operations, in seconds.
type Timings struct {
	CloneS         float64 `json:"clone_s"`
	PowerOnS       float64 `json:"power_on_s"`
	PowerOffS      float64 `json:"power_off_s"`
	CustomizationS float64 `json:"customization_s"`
	BootS          float64 `json:"boot_s"`
	ReconfigureS   float64 `json:"reconfigure_s"`
	DestroyS       float64 `json:"destroy_s"`
	RebootS        float64 `json:"reboot_s"`
}

type UserDescription struct {
	Name    string   `json:"name"`
	Role    string   `json:"role"`
	Without []string `json:"without"`
}

var versionNumber = regexp.MustCompile(`^[5-9](\.\d+){1,3}$`)

var pciAddress = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func readDescription(file string) (*Description, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d, err := parseDescription(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return d, nil
}

func parseDescription(data []byte) (*Description, error) {
	d := &Description{
		Timings: Timings{
			CloneS: 3, PowerOnS: 1, PowerOffS: 0.2, BootS: 1, DestroyS: 0.2, RebootS: 5,
		},
		SessionIdleS: 1800,
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(d); err != nil {
		return nil, err
	}
	d.fill()
	return d, d.check()
}

func (d *Description) check() error {
	if len(d.Hosts) == 0 {
		return fmt.Errorf("hosts: at least one is needed")
	}
	if prefix, err := netip.ParsePrefix(d.AddressBlock); err != nil || !prefix.Addr().Is4() {
		return fmt.Errorf("address_block: '%s' is not an IPv4 block such as 127.77.0.0/16", d.AddressBlock)
	}
	if !versionNumber.MatchString(d.About.APIVersion) {
		return fmt.Errorf("about: api_version '%s' does not look like 8.0.3.0", d.About.APIVersion)
	}
	if !slices.Contains(automationLevels, d.Automation) {
		return fmt.Errorf("drs_automation: '%s' is none of %v", d.Automation, automationLevels)
	}
	names := map[string]bool{}
	for _, h := range d.Hosts {
		if h.Name == "" || names[h.Name] {
			return fmt.Errorf("hosts: the name '%s' is empty or there twice", h.Name)
		}
		names[h.Name] = true
		if err := h.check(); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	for _, t := range d.Templates {
		if err := d.checkTemplate(&t); err != nil {
			return fmt.Errorf("template %s: %w", t.Name, err)
		}
	}
	for _, v := range d.VMs {
		if err := d.checkVM(&v); err != nil {
			return fmt.Errorf("vm %s: %w", v.Name, err)
		}
	}
	for _, u := range d.Users {
		if !slices.Contains([]string{"admin", "readonly", "tools", roleNone}, u.Role) {
			return fmt.Errorf("user %s: role '%s' is none of admin, readonly, tools, none", u.Name, u.Role)
		}
	}
	for _, p := range d.Permissions {
		if err := d.checkPermission(&p); err != nil {
			return fmt.Errorf("permission on %s: %w", p.Entity, err)
		}
	}
	return nil
}

// checkPermission checks the role and the principal. The entity need not exist yet.
func (d *Description) checkPermission(p *PermissionDescription) error {
	if !slices.Contains([]string{"", "noaccess", "view", "readonly"}, p.Role) {
		return fmt.Errorf("role '%s' is none of noaccess, view, readonly", p.Role)
	}
	for _, u := range d.Users {
		if u.Name == p.Principal && u.Role == roleNone {
			return nil
		}
	}
	return fmt.Errorf("'%s' is no user with the role none", p.Principal)
}

func (h *HostDescription) check() error {
	if *h.HypervisorGiB < 0 || *h.HypervisorGiB >= float64(h.MemoryGiB) {
		return fmt.Errorf("hypervisor_gib %g is not within the host's %d GiB", *h.HypervisorGiB, h.MemoryGiB)
	}
	for _, kind := range append([]string{h.GraphicsType}, h.cardTypes()...) {
		if kind != shared && kind != sharedDirect {
			return fmt.Errorf("graphics_type '%s' is none of %s, %s", kind, shared, sharedDirect)
		}
	}
	addresses := map[string]bool{}
	for _, g := range h.GPUs {
		if !pciAddress.MatchString(g.PCIAddress) {
			return fmt.Errorf("pci_address '%s' does not look like 0000:3b:00.0", g.PCIAddress)
		}
		if addresses[g.PCIAddress] {
			return fmt.Errorf("pci_address '%s' is there twice", g.PCIAddress)
		}
		addresses[g.PCIAddress] = true
	}
	return h.checkGroups()
}

func (h *HostDescription) cardTypes() []string {
	kinds := make([]string, 0, len(h.GPUs))
	for _, g := range h.GPUs {
		if g.GraphicsType != "" {
			kinds = append(kinds, g.GraphicsType)
		}
	}
	return kinds
}

// profile returns the GPU's profile of that name, or nil.
func (g *GPUDescription) profile(name string) *VGPUProfile {
	for i := range g.VGPUProfiles {
		if g.VGPUProfiles[i].Name == name {
			return &g.VGPUProfiles[i]
		}
	}
	return nil
}

func (d *Description) checkTemplate(t *TemplateDescription) error {
	if t.Name == "" {
		return fmt.Errorf("it needs a name")
	}
	if t.DiskUsedGiB != nil && (*t.DiskUsedGiB < 0 || *t.DiskUsedGiB > t.DiskGiB) {
		return fmt.Errorf("disk_used_gib %d is not within the disk's %d GiB", *t.DiskUsedGiB, t.DiskGiB)
	}
	if t.Host != "" && d.host(t.Host) == nil {
		return fmt.Errorf("there is no host '%s'", t.Host)
	}
	for _, s := range d.Datastores {
		if t.Datastore == "" || s.Name == t.Datastore {
			return nil
		}
	}
	return fmt.Errorf("there is no datastore '%s'", t.Datastore)
}

func (d *Description) checkVM(v *VMDescription) error {
	if v.Power != "on" && v.Power != "off" {
		return fmt.Errorf("power '%s' is none of on, off", v.Power)
	}
	if *v.Count < 0 {
		return fmt.Errorf("count cannot be negative")
	}
	if v.Host != "" && d.host(v.Host) == nil {
		return fmt.Errorf("there is no host '%s'", v.Host)
	}
	if v.DRS != "" && v.DRS != drsDisabled && !slices.Contains(automationLevels, v.DRS) {
		return fmt.Errorf("drs '%s' is none of %v, %s", v.DRS, automationLevels, drsDisabled)
	}
	if v.GPU != "" && !pciAddress.MatchString(v.GPU) {
		return fmt.Errorf("gpu '%s' does not look like 0000:3b:00.0", v.GPU)
	}
	return nil
}

func (d *Description) host(name string) *HostDescription {
	for i := range d.Hosts {
		if d.Hosts[i].Name == name {
			return &d.Hosts[i]
		}
	}
	return nil
}
