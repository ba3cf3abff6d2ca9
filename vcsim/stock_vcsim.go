package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi/simulator"
)

// runStock serves govmomi's simulator as it comes: a vCenter without GPUs and without this
// program's rules, for tests of what gpuvm does against one.
func runStock(o options) error {
	certificate, err := serverCertificate(o.stateDir)
	if err != nil {
		return err
	}
	model := simulator.VPX()
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
	fmt.Println(server.URL) // whoever started it waits for this line
	stopped := make(chan string, 2)
	go watchSignals(stopped)
	go watchParent(o.parentFD, stopped)
	<-stopped
	return nil
}
