// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"text/template"
)

//go:embed peers
var configs embed.FS

// Site is what a gateway's configuration is made of. The templates in peers
// see its fields and methods.
type Site struct {
	// Dir is the gateway's own, empty directory.
	Dir string
	// Listen is where clients connect, Backend where the decrypted bytes go.
	Listen, Backend netip.AddrPort
	ServerName      string
	certificate     []byte // PEM
	key             []byte // PEM
	// Workers limits the threads or processes of the data path; 0 leaves each
	// gateway its default, which is one per CPU for all of them.
	Workers int
	// Metrics is where Sluice serves its metrics.
	Metrics netip.AddrPort
}

// Certificate is the path of the certificate.
func (s Site) Certificate() string { return filepath.Join(s.Dir, "tls.crt") }

// Key is the path of the private key.
func (s Site) Key() string { return filepath.Join(s.Dir, "tls.key") }

// Bundle is the path of certificate and key in one file.
func (s Site) Bundle() string { return filepath.Join(s.Dir, "tls.pem") }

// CertificatePEM is the certificate as a Secret holds it.
func (s Site) CertificatePEM() string { return base64.StdEncoding.EncodeToString(s.certificate) }

// KeyPEM is the private key as a Secret holds it.
func (s Site) KeyPEM() string { return base64.StdEncoding.EncodeToString(s.key) }

// StreamModule is the path of nginx's stream module.
func (s Site) StreamModule() string { return nginxStreamModule }

// write puts certificate and key and a peer's configuration, made from a
// template of this program, into the site's directory.
func (s Site) write(name string) (path string, err error) {
	t, err := template.ParseFS(configs, "peers/"+name)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, s); err != nil {
		return "", err
	}
	path = filepath.Join(s.Dir, name)
	return path, errors.Join(
		os.WriteFile(path, text.Bytes(), 0o600),
		os.WriteFile(s.Certificate(), s.certificate, 0o600),
		os.WriteFile(s.Key(), s.key, 0o600),
		os.WriteFile(s.Bundle(), append(bytes.Clone(s.certificate), s.key...), 0o600))
}

// Peer is a gateway to measure.
type Peer struct {
	Name string
	// Version finds the program, or says why it cannot be measured here and
	// what to do about it.
	Version func() (string, error)
	// Command writes the configuration for a site and returns the command that
	// serves it in the foreground until SIGTERM.
	Command func(Site) (*exec.Cmd, error)
	// Metrics says that the gateway serves Sluice's metrics at Site.Metrics.
	Metrics bool
}

// reference is the peer that the others' ratios refer to.
const reference = "haproxy"

const nginxStreamModule = "/usr/lib/nginx/modules/ngx_stream_module.so"

// peers are all gateways that a run can measure; binary is the sluice program.
func peers(binary string) []Peer {
	return []Peer{
		sluice("spliced", binary, "auto"),
		sluice("relay", binary, "off"),
		{
			Name:    "haproxy",
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

// debian is the version of a program that a Debian package installs.
func debian(pkg, program, flag string) (string, error) {
	if _, err := exec.LookPath(program); err != nil {
		return "", fmt.Errorf("%s is not installed: apt-get install %s", program, pkg)
	}
	return version(program, flag)
}

var versionNumber = regexp.MustCompile(`\d+\.\d+[\w.+~-]*|devel\S*|[0-9a-f]{7,40}`)

func version(program string, arg string) (string, error) {
	out, err := exec.Command(program, arg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, arg, err, bytes.TrimSpace(out))
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	if v := versionNumber.Find(first); v != nil {
		return string(v), nil
	}
	return string(first), nil
}
