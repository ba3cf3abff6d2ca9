// gpuvm-vcsim is the lab's simulated vCenter: govmomi's simulator plus the rules of GPUs on ESXi.
//
//	gpuvm-vcsim --state-dir DIR --description FILE [--listen 127.0.0.1:0] [--control 127.0.0.1:0]
//
// It reads DIR/passwords.json, writes DIR/ca.pem and, once it answers, DIR/ready.json.
// README.md says which rules are enforced, where, and which test shows it.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

type options struct {
	stateDir    string
	description string
	listen      string
	control     string
	parentFD    int
	stock       bool
	inventory   stockInventory
}

func main() {
	log.SetFlags(log.Ldate | log.Ltime | log.Lmicroseconds)
	if err := run(parseOptions(os.Args[1:])); err != nil {
		fmt.Fprintln(os.Stderr, "gpuvm-vcsim:", err)
		os.Exit(1)
	}
}

func parseOptions(args []string) options {
	var o options
	flags := flag.NewFlagSet("gpuvm-vcsim", flag.ExitOnError)
	flags.StringVar(&o.stateDir, "state-dir", "", "folder for the CA, ready.json and datastore files; holds passwords.json")
	flags.StringVar(&o.description, "description", "", "JSON file that describes the lab")
	flags.StringVar(&o.listen, "listen", "127.0.0.1:0", "address of the vSphere API")
	flags.StringVar(&o.control, "control", "127.0.0.1:0", "address of the control endpoint")
	flags.IntVar(&o.parentFD, "parent-fd", -1, "exit when this inherited pipe is closed")
	flags.BoolVar(&o.stock, "stock", false, "govmomi's simulator as it comes: no GPUs, no rules, any password")
	o.inventory.register(flags)
	_ = flags.Parse(args) // ExitOnError
	return o
}

func run(o options) error {
	if o.stateDir == "" || (o.description == "" && !o.stock) {
		return errors.New("--state-dir and --description are needed")
	}
	stateDir, err := filepath.Abs(o.stateDir)
	if err != nil {
		return err
	}
	o.stateDir = stateDir
	if o.stock {
		return runStock(o)
	}
	description, err := readDescription(o.description)
	if err != nil {
		return err
	}
	passwords, err := readPasswords(o.stateDir, description.Users)
	if err != nil {
		return err
	}
	lab, err := newLab(description, passwords, filepath.Join(o.stateDir, "datastores"))
	if err != nil {
		return err
	}
	server, err := listen(lab, o)
	if err != nil {
		return err
	}
	stopped := make(chan string, 2)
	go watchSignals(stopped)
	go watchParent(o.parentFD, stopped)
	if err := announce(o.stateDir, lab, server); err != nil {
		return err
	}
	log.Printf("%s answers at %s", description.About.Name, server.url)
	log.Printf("stopping: %s", <-stopped)
	server.close()
	_ = os.Remove(filepath.Join(o.stateDir, "ready.json"))
	return nil
}

func readPasswords(dir string, users []UserDescription) (map[string]string, error) {
	file := filepath.Join(dir, "passwords.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	passwords := map[string]string{}
	if err := json.Unmarshal(data, &passwords); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, user := range users {
		if passwords[user.Name] == "" {
			return nil, fmt.Errorf("%s: no password for %s", file, user.Name)
		}
	}
	return passwords, nil
}

// announce writes ready.json atomically, so that a process that waits for it never reads an
// incomplete file.
func announce(dir string, lab *Lab, server *server) error {
	data, err := json.MarshalIndent(map[string]any{
		"url":         server.url,
		"control_url": server.controlURL,
		"ca_file":     filepath.Join(dir, "ca.pem"),
		"pid":         os.Getpid(),
		"about_name":  lab.description.About.Name,
	}, "", " ")
	if err != nil {
		return err
	}
	partial := filepath.Join(dir, ".ready.json.partial")
	if err := os.WriteFile(partial, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(partial, filepath.Join(dir, "ready.json"))
}

func watchSignals(stopped chan<- string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	stopped <- (<-signals).String()
}

// watchParent calls the function when the process that holds the other end of the pipe ends.
func watchParent(fd int, stopped chan<- string) {
	if fd < 0 {
		return
	}
	_, _ = io.Copy(io.Discard, os.NewFile(uintptr(fd), "parent"))
	stopped <- "the parent has ended"
}
