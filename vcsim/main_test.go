package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain runs the test binary as the program itself, so that it can be tested.
func TestMain(m *testing.M) {
	if os.Getenv("GPUVM_VCSIM_RUN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

type program struct {
	*exec.Cmd
	dir    string
	stderr *strings.Builder
}

func newProgram(t *testing.T, args ...string) *program {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "site.json"), twoHosts)
	writeFile(t, filepath.Join(dir, "passwords.json"), `{"administrator@lab.local": "a", "readonly@lab.local": "b",
		"nodevices@lab.local": "c", "tools@lab.local": "d"}`)
	args = append([]string{"--state-dir", dir, "--description", filepath.Join(dir, "site.json")}, args...)
	p := &program{Cmd: exec.CommandContext(t.Context(), os.Args[0], args...), dir: dir, stderr: &strings.Builder{}}
	p.Env = append(os.Environ(), "GPUVM_VCSIM_RUN=1")
	p.Stderr = p.stderr
	return p
}

func (p *program) awaitReady(t *testing.T) map[string]any {
	t.Helper()
	must(t, p.Start())
	r := &rig{T: t}
	var data []byte
	r.until("ready.json is there", func() bool {
		var err error
		data, err = os.ReadFile(filepath.Join(p.dir, "ready.json"))
		return err == nil
	})
	var ready map[string]any
	must(t, json.Unmarshal(data, &ready))
	return ready
}

// end waits for the program's end and returns its exit status.
func (p *program) end(t *testing.T) int {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	select {
	case <-ended:
		return p.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
		return -1
	}
}

func TestProgramStartsAndStops(t *testing.T) {
	p := newProgram(t)
	ready := p.awaitReady(t)
	if ready["pid"] != float64(p.Process.Pid) || ready["ca_file"] != filepath.Join(p.dir, "ca.pem") ||
		!strings.HasPrefix(ready["url"].(string), "https://127.0.0.1:") || !strings.HasPrefix(ready["control_url"].(string), "http://127.0.0.1:") {
		t.Errorf("%v", ready)
	}
	key, err := os.Stat(filepath.Join(p.dir, "server-key.pem"))
	must(t, err)
	if key.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v", key.Mode())
	}
	must(t, p.Process.Signal(syscall.SIGTERM))
	if status := p.end(t); status != 0 {
		t.Errorf("exit status %d: %s", status, p.stderr)
	}
	if exists(filepath.Join(p.dir, "ready.json")) {
		t.Error("ready.json is still there")
	}
}

// It ends with the process that holds the other end of the pipe.
func TestProgramEndsWithItsParent(t *testing.T) {
	p := newProgram(t, "--parent-fd", "3")
	read, write, err := os.Pipe()
	must(t, err)
	p.ExtraFiles = []*os.File{read}
	p.awaitReady(t)
	must(t, read.Close())
	must(t, write.Close())
	if status := p.end(t); status != 0 {
		t.Errorf("exit status %d: %s", status, p.stderr)
	}
}

func TestProgramReportsBadArguments(t *testing.T) {
	for complaint, spoil := range map[string]func(*program){
		`unknown field "gpu"`:     func(p *program) { writeFile(t, filepath.Join(p.dir, "site.json"), `{"hosts": [{"gpu": 1}]}`) },
		"no password for":         func(p *program) { writeFile(t, filepath.Join(p.dir, "passwords.json"), `{}`) },
		"passwords.json: no such": func(p *program) { must(t, os.Remove(filepath.Join(p.dir, "passwords.json"))) },
		"must be on a loopback":   func(p *program) { p.Args = append(p.Args, "--control", "0.0.0.0:0") },
	} {
		p := newProgram(t)
		spoil(p)
		must(t, p.Start())
		if status := p.end(t); status != 1 || !strings.Contains(p.stderr.String(), complaint) {
			t.Errorf("exit status %d, %q instead of %q", status, p.stderr, complaint)
		}
	}
}
