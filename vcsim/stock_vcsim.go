package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/simulator"

	_ "github.com/vmware/govmomi/pbm/simulator"  // storage policies, as in vcsim
	_ "github.com/vmware/govmomi/vapi/simulator" // tags and content libraries, as in vcsim
)

// stockInventory is the number of objects of each kind with --stock, with vcsim's own flags and
// defaults.
type stockInventory struct {
	datacenters, clusters, folders, pools, portgroups, datastores int
}

func (i *stockInventory) register(flags *flag.FlagSet) {
	stock := simulator.VPX()
	flags.IntVar(&i.datacenters, "dc", stock.Datacenter, "with --stock: number of datacenters")
	flags.IntVar(&i.clusters, "cluster", stock.Cluster, "with --stock: number of clusters per datacenter")
	flags.IntVar(&i.folders, "folder", stock.Folder, "with --stock: number of folders of each kind per datacenter")
	flags.IntVar(&i.pools, "pool", stock.Pool, "with --stock: number of resource pools per cluster")
	flags.IntVar(&i.portgroups, "pg", stock.Portgroup, "with --stock: number of port groups per datacenter")
	flags.IntVar(&i.datastores, "ds", stock.Datastore, "with --stock: number of datastores per datacenter")
}

func (i *stockInventory) apply(model *simulator.Model) {
	model.Datacenter, model.Cluster, model.Folder = i.datacenters, i.clusters, i.folders
	model.Pool, model.Portgroup, model.Datastore = i.pools, i.portgroups, i.datastores
}

// runStock serves govmomi's unmodified simulator, a vCenter without GPUs and without this program's
// rules, for tests of gpuvm against it.
func runStock(o options) error {
	certificate, err := serverCertificate(o.stateDir)
	if err != nil {
		return err
	}
	model := simulator.VPX()
	o.inventory.apply(model)
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}
	model.Service.Listen = &url.URL{Host: o.listen}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server := model.Service.NewServer()
	defer server.Close()
	server.URL.User = nil
	data, err := json.Marshal(map[string]any{
		"url": server.URL.String(), "ca_file": filepath.Join(o.stateDir, "ca.pem"), "pid": os.Getpid(),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(o.stateDir, "ready.json"), data, 0o644); err != nil {
		return err
	}
	fmt.Println(server.URL) // the process that started it waits for this line
	stopped := make(chan string, 2)
	go watchSignals(stopped)
	go watchParent(o.parentFD, stopped)
	<-stopped
	return nil
}
