package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/simulator/vpx"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const gib = int64(1) << 30

// build creates the inventory of the description, before clients can connect.
func (lab *Lab) build(files string) error {
	d := lab.description
	esx.HostSystem.Config.Product.Version = lab.knownVersion() // the hosts' capabilities depend on it
	ctx, instance := simulator.NewServiceInstance(simulator.NewContext(), vpx.ServiceContent, vpx.RootFolder)
	lab.service = simulator.New(ctx, instance)
	lab.root, lab.registry = ctx, ctx.Map
	instance.Content.About = about(d)
	client, err := vim25.NewClient(context.Background(), lab.service)
	if err != nil {
		return err
	}
	builder := &builder{lab: lab, client: client, ctx: context.Background()}
	steps := []func() error{
		builder.addDatacenter, builder.addNetworks, builder.addHosts,
		func() error { return builder.addDatastores(files) },
		builder.addTemplates,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	for i := range d.VMs {
		if err := lab.addUnrelated(&d.VMs[i]); err != nil {
			return err
		}
	}
	return nil
}

// content sets the references to the singletons: property collector, task manager and so on.
func (lab *Lab) content() *types.ServiceContent {
	return &lab.registry.Get(vim25.ServiceInstance).(*simulator.ServiceInstance).Content
}

func about(d *Description) types.AboutInfo {
	a := vpx.ServiceContent.About
	a.Name = d.About.Name
	a.FullName = fmt.Sprintf("%s %s build-%s", d.About.Name, d.About.Version, d.About.Build)
	a.Version = d.About.Version
	a.Build = d.About.Build
	a.ApiVersion = d.About.APIVersion
	a.InstanceUuid = d.InstanceUUID
	a.LicenseProductVersion = d.About.Version[:1] + ".0"
	return a
}

// hypervisor returns the version of ESXi that matches the vCenter.
func hypervisor(d AboutDescription) types.AboutInfo {
	a := esx.HostSystem.Config.Product
	a.Version, a.Build, a.ApiVersion = d.Version, d.Build, d.APIVersion
	a.FullName = fmt.Sprintf("VMware ESXi %s build-%s", d.Version, d.Build)
	return a
}

// knownVersion returns the newest version of ESXi that the simulator knows and that is not above
// the lab's.
func (lab *Lab) knownVersion() string {
	for _, version := range []string{"8.0.2", "8.0.0", "7.0.2", "7.0.0", "6.7.2"} {
		if lab.atLeast(version) {
			return version
		}
	}
	return "6.7.0"
}

// builder uses the simulator's API as a client does, where it has what is needed.
type builder struct {
	lab        *Lab
	client     *vim25.Client
	ctx        context.Context
	datacenter *object.Datacenter
	folders    *object.DatacenterFolders
	cluster    *object.ClusterComputeResource
}

func (b *builder) addDatacenter() error {
	var err error
	d := b.lab.description
	if b.datacenter, err = object.NewRootFolder(b.client).CreateDatacenter(b.ctx, d.Datacenter); err != nil {
		return err
	}
	if b.folders, err = b.datacenter.Folders(b.ctx); err != nil {
		return err
	}
	if b.cluster, err = b.folders.HostFolder.CreateCluster(b.ctx, d.Cluster, types.ClusterConfigSpecEx{}); err != nil {
		return err
	}
	b.configureDRS(d)
	pool, err := b.cluster.ResourcePool(b.ctx)
	if err != nil {
		return err
	}
	b.lab.datacenter, b.lab.cluster = b.datacenter.Reference(), b.cluster.Reference()
	b.lab.pool, b.lab.vmFolder = pool.Reference(), b.folders.VmFolder.Reference()
	return nil
}

// configureDRS sets DRS after the cluster has been created, because the simulator always enables
// it.
func (b *builder) configureDRS(d *Description) {
	cluster := b.lab.registry.Get(b.cluster.Reference()).(*simulator.ClusterComputeResource)
	config := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx)
	config.DrsConfig.Enabled = types.NewBool(d.DRS)
	config.DrsConfig.DefaultVmBehavior = types.DrsBehavior(d.Automation)
	if d.VGPUsMove {
		config.DrsConfig.Option = []types.BaseOptionValue{&types.OptionValue{Key: "VgpuMMAutomationTimeoutSecs", Value: "-1"}}
	}
	cluster.Configuration.DrsConfig = config.DrsConfig // the older property, whose type declares drsConfig
	config.DasConfig = withoutHA()
	config.DpmConfigInfo = &types.ClusterDpmConfigInfo{Enabled: types.NewBool(false), DefaultDpmBehavior: types.DpmBehaviorManual}
	config.VsanConfigInfo = &types.VsanClusterConfigInfo{
		Enabled:       types.NewBool(false),
		DefaultConfig: &types.VsanClusterConfigInfoHostDefaultInfo{AutoClaimStorage: types.NewBool(false)},
	}
	cluster.Configuration.DasConfig = config.DasConfig
}

// withoutHA returns the configuration of disabled vSphere HA, which every cluster of a vCenter has.
func withoutHA() types.ClusterDasConfigInfo {
	return types.ClusterDasConfigInfo{
		Enabled:                 types.NewBool(false),
		VmMonitoring:            string(types.ClusterDasConfigInfoVmMonitoringStateVmMonitoringDisabled),
		HostMonitoring:          string(types.ClusterDasConfigInfoServiceStateDisabled),
		AdmissionControlEnabled: types.NewBool(false),
		DefaultVmSettings: &types.ClusterDasVmSettings{
			RestartPriority:   string(types.DasVmPriorityMedium),
			IsolationResponse: string(types.ClusterDasVmSettingsIsolationResponseNone),
			VmToolsMonitoringSettings: &types.ClusterVmToolsMonitoringSettings{
				VmMonitoring: string(types.ClusterDasConfigInfoVmMonitoringStateVmMonitoringDisabled),
			},
		},
	}
}

// addNetworks names the datacenter's first network and adds the others.
func (b *builder) addNetworks() error {
	registry := b.lab.registry
	datacenter := registry.Get(b.lab.datacenter).(*simulator.Datacenter)
	folder := registry.Get(b.folders.NetworkFolder.Reference()).(*simulator.Folder)
	for i, name := range b.lab.description.Networks {
		network := &mo.Network{}
		if i == 0 {
			network = registry.Get(datacenter.Network[0]).(*mo.Network)
		} else {
			registry.PutEntity(folder, network)
			folder.ChildEntity = append(folder.ChildEntity, network.Self)
			datacenter.Network = append(datacenter.Network, network.Self)
		}
		network.Name = name
		network.ManagedEntity.Name = name
		network.Summary = &types.NetworkSummary{Network: &network.Self, Name: name, Accessible: true}
		b.lab.networks[name] = network.Self
	}
	if err := b.addOpaqueNetworks(datacenter, folder); err != nil {
		return err
	}
	cluster := registry.Get(b.lab.cluster).(*simulator.ClusterComputeResource)
	cluster.Network = datacenter.Network
	return nil
}

func (b *builder) addHosts() error {
	registry := b.lab.registry
	for i := range b.lab.description.Hosts {
		d := &b.lab.description.Hosts[i]
		task, err := b.cluster.AddHost(b.ctx, types.HostConnectSpec{HostName: d.Name}, true, nil, nil)
		if err != nil {
			return err
		}
		info, err := task.WaitForResult(b.ctx, nil)
		if err != nil {
			return fmt.Errorf("host %s: %w", d.Name, err)
		}
		host := registry.Get(info.Result.(ref)).(*simulator.HostSystem)
		host.Network = registry.Get(b.lab.cluster).(*simulator.ClusterComputeResource).Network
		b.lab.equip(host, d)
	}
	for _, r := range b.lab.hostRefs {
		host := registry.Get(r).(*simulator.HostSystem)
		about := b.lab.description.About
		given := b.lab.hosts[r].given
		orElse(&given.Version, about.Version)
		about.Version = given.Version
		host.Config.Product = hypervisor(about)
		host.Summary.Config.Product = &host.Config.Product
	}
	b.lab.summarizeCluster()
	return nil
}

// addDatastores mounts every datastore on its hosts; one without hosts is mounted on all of them.
func (b *builder) addDatastores(files string) error {
	if err := os.RemoveAll(files); err != nil {
		return err
	}
	for i, d := range b.lab.description.Datastores {
		dir := filepath.Join(files, fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		for _, host := range b.lab.hostRefs {
			if !d.mountedOn(b.lab.hosts[host].name) {
				continue
			}
			system, err := object.NewHostSystem(b.client, host).ConfigManager().DatastoreSystem(b.ctx)
			if err != nil {
				return err
			}
			store, err := system.CreateLocalDatastore(b.ctx, d.Name, dir)
			if err != nil {
				return fmt.Errorf("datastore %s: %w", d.Name, err)
			}
			if _, mounted := b.lab.datastores[d.Name]; !mounted { // only the first mount returns the datastore
				b.lab.datastores[d.Name] = store.Reference()
			}
		}
		b.sizeDatastore(&d)
	}
	return nil
}

func (b *builder) sizeDatastore(d *DatastoreDescription) {
	store := b.lab.registry.Get(b.lab.datastores[d.Name]).(*simulator.Datastore)
	store.Summary.Type = "VMFS"
	store.Summary.Capacity = d.CapacityGiB * gib
	store.Summary.FreeSpace = *d.FreeGiB * gib
	b.lab.mount(store, d)
	store.Summary.MultipleHostAccess = types.NewBool(len(store.Host) > 1)
	info := store.Info.GetDatastoreInfo()
	info.FreeSpace = store.Summary.FreeSpace
	info.MaxFileSize = 62 << 40
	info.Timestamp = types.NewTime(time.Now())
}

// summarizeCluster sets the sums that clients read instead of reading every host.
func (lab *Lab) summarizeCluster() {
	cluster := lab.registry.Get(lab.cluster).(*simulator.ClusterComputeResource)
	sum := cluster.Summary.GetComputeResourceSummary()
	*sum = types.ComputeResourceSummary{OverallStatus: types.ManagedEntityStatusGreen}
	for _, host := range lab.hostRefs {
		h := lab.registry.Get(host).(*simulator.HostSystem).Summary.Hardware
		sum.TotalCpu += h.CpuMhz * int32(h.NumCpuCores)
		sum.TotalMemory += h.MemorySize
		sum.NumCpuCores += h.NumCpuCores
		sum.NumCpuThreads += h.NumCpuThreads
		sum.NumHosts++
	}
	sum.EffectiveCpu = sum.TotalCpu
	sum.EffectiveMemory, sum.NumEffectiveHosts = lab.effectiveMemoryMB()
	pool := lab.registry.Get(lab.pool).(*simulator.ResourcePool)
	pool.Runtime.Memory = types.ResourcePoolResourceUsage{
		MaxUsage: sum.EffectiveMemory << 20, UnreservedForPool: sum.EffectiveMemory << 20, UnreservedForVm: sum.EffectiveMemory << 20,
	}
	pool.Runtime.Cpu = types.ResourcePoolResourceUsage{
		MaxUsage: int64(sum.TotalCpu), UnreservedForPool: int64(sum.TotalCpu), UnreservedForVm: int64(sum.TotalCpu),
	}
}

// effectiveMemoryMB returns the memory for VMs of all usable hosts, and the number of these hosts.
func (lab *Lab) effectiveMemoryMB() (memory int64, hosts int32) {
	for _, self := range lab.hostRefs {
		if runsVMs(lab.registry.Get(self).(*simulator.HostSystem)) {
			memory += lab.hosts[self].memoryForVMsMB()
			hosts++
		}
	}
	return memory, hosts
}

// runsVMs reports whether the host counts for its cluster's capacity.
func runsVMs(host *simulator.HostSystem) bool {
	connected := host.Runtime.ConnectionState == types.HostSystemConnectionStateConnected
	return connected && !host.Runtime.InMaintenanceMode
}

// updateCapacity updates the cluster's summary after a host became usable or unusable.
func (lab *Lab) updateCapacity(ctx *simulator.Context) {
	memory, hosts := lab.effectiveMemoryMB()
	lab.locked(ctx, lab.cluster, func() {
		cluster := lab.registry.Get(lab.cluster).(*simulator.ClusterComputeResource)
		sum := *cluster.Summary.(*types.ClusterComputeResourceSummary)
		if sum.EffectiveMemory == memory && sum.NumEffectiveHosts == hosts {
			return
		}
		sum.EffectiveMemory, sum.NumEffectiveHosts = memory, hosts
		lab.registry.Update(ctx, cluster, []types.PropertyChange{{Name: "summary", Val: &sum}})
	})
}
