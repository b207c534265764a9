// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"embed"
	"encoding/base64"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"text/template"
)

//go:embed peers
var configs embed.FS

// Mode is what a gateway does with its clients' bytes.
type Mode string

// The modes. The value is part of the names of configurations.
const (
	Terminate   Mode = ""            // end TLS, pass on what was in it
	Passthrough Mode = "passthrough" // pass on TLS, by the name in its ClientHello
	Plain       Mode = "plain"       // pass on TCP
)

// Site is what a gateway's configuration is made of. The templates in peers
// see its fields and methods.
type Site struct {
	// Dir is the gateway's own, empty directory.
	Dir string
	// Listen is where clients connect, Backend where the bytes go.
	Listen, Backend netip.AddrPort
	Mode            Mode
	identities      []identity
	// Workers limits the threads or processes of the data path; 0 leaves each
	// gateway its default, which is one per CPU for all of them.
	Workers int
	// Metrics is where Sluice serves its metrics.
	Metrics netip.AddrPort
}

// Server is a server name that a gateway serves, as the templates see it.
type Server struct {
	Index                  int
	Name                   string
	Certificate, Key       string // paths
	CertificatePEM, KeyPEM string // as a Secret holds them
}

// Names says that the gateway serves many names.
func (s Site) Names() bool { return len(s.identities) > 1 }

// ServerName is the first name.
func (s Site) ServerName() string { return s.identities[0].Name }

// Servers are all names.
func (s Site) Servers() []Server {
	servers := make([]Server, len(s.identities))
	for i, id := range s.identities {
		servers[i] = Server{
			Index: i, Name: id.Name,
			Certificate: filepath.Join(s.Dir, "tls", id.Name+".crt"), Key: filepath.Join(s.Dir, "tls", id.Name+".key"),
			CertificatePEM: base64.StdEncoding.EncodeToString(id.Certificate), KeyPEM: base64.StdEncoding.EncodeToString(id.Key),
		}
	}
	return servers
}

// Server is the first name.
func (s Site) Server() Server { return Site{Dir: s.Dir, identities: s.identities[:1]}.Servers()[0] }

// Bundle is the path of certificate and key in one file, or of a directory of
// such files when there are many names.
func (s Site) Bundle() string {
	if s.Names() {
		return filepath.Join(s.Dir, "pem")
	}
	return filepath.Join(s.Dir, "pem", s.ServerName()+".pem")
}

// Processes is how many workers a gateway has that must be told.
func (s Site) Processes() int {
	if s.Workers > 0 {
		return s.Workers
	}
	return runtime.NumCPU()
}

// User is whom a gateway becomes that does not serve as root, empty when it
// was not started as root.
func (s Site) User() string {
	if os.Geteuid() != 0 {
		return ""
	}
	return "nobody"
}

// StreamModule is the path of nginx's stream module.
func (s Site) StreamModule() string { return nginxStreamModule }

// write puts certificates and keys and a peer's configuration for the mode,
// made from a template of this program, into the site's directory.
func (s Site) write(name string) (path string, err error) {
	ext := filepath.Ext(name)
	file := name
	if s.Mode != Terminate {
		file = name[:len(name)-len(ext)] + "-" + string(s.Mode) + ext
	}
	t, err := template.ParseFS(configs, "peers/"+file)
	if err != nil {
		return "", err
	}
	var text bytes.Buffer
	if err := t.Execute(&text, s); err != nil {
		return "", err
	}
	path = filepath.Join(s.Dir, name)
	errs := []error{
		os.WriteFile(path, text.Bytes(), 0o600),
		os.Mkdir(filepath.Join(s.Dir, "tls"), 0o700),
		os.Mkdir(filepath.Join(s.Dir, "pem"), 0o700),
	}
	for i, h := range s.Servers() {
		id := s.identities[i]
		errs = append(errs,
			os.WriteFile(h.Certificate, id.Certificate, 0o600),
			os.WriteFile(h.Key, id.Key, 0o600),
			os.WriteFile(filepath.Join(s.Dir, "pem", h.Name+".pem"), append(bytes.Clone(id.Certificate), id.Key...), 0o600))
	}
	return path, errors.Join(errs...)
}

// Gateway is a Gateway object for some of the servers.
type Gateway struct {
	Index   int
	Servers []Server
}

// Gateways are the servers in groups of at most 64, the listeners of one Gateway.
func (s Site) Gateways() []Gateway {
	var all []Gateway
	for servers := range slices.Chunk(s.Servers(), 64) {
		all = append(all, Gateway{len(all), servers})
	}
	return all
}
