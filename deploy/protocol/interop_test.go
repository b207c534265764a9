// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// group is a key exchange, as each client calls it; "" where it has it not. To Python
// X25519 cannot be named, but is what its OpenSSL offers first.
type group struct {
	name                  string
	id                    tls.CurveID
	openssl, gnutls, curl string
	java, python, node    string
}

var groups = []group{
	{"X25519", tls.X25519, "X25519", "GROUP-X25519", "X25519", "x25519", "", "X25519"},
	{"P-256", tls.CurveP256, "P-256", "GROUP-SECP256R1", "P-256", "secp256r1", "prime256v1", "P-256"},
	{"X25519MLKEM768", tls.X25519MLKEM768, "", "", "", "", "", ""},
}

// TestInterop has clients of several makes handshake with each version, kind of
// certificate and key exchange, and get an answer through the gateway. None of them
// may be missing.
func TestInterop(t *testing.T) {
	count := &figures.Figures{}
	figures.Record(t, count)
	count.What = fmt.Sprintf("handshakes of %s, in TLS 1.2 and 1.3, with RSA and ECDSA, X25519, P-256 and, Go alone, X25519MLKEM768",
		strings.Join(makes(t), ", "))
	for _, p := range site.pairs {
		server := gateway.launch(t, answering(t), p)
		host, port, _ := net.SplitHostPort(server.address)
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			v := tls.VersionName(version)[len("TLS "):]
			for _, g := range groups {
				if g.id == tls.X25519MLKEM768 && version != tls.VersionTLS13 {
					continue
				}
				try := func(client string, f func(t *testing.T) error) {
					count.Connections++
					t.Run(fmt.Sprintf("%s, TLS %s, %s, %s", client, v, p.name, g.name), func(t *testing.T) {
						if err := f(t); err != nil {
							count.Failures++
							t.Error(err)
						}
					})
				}
				if version == tls.VersionTLS12 && p.name == "ecdsa" && g.id == tls.X25519 {
					// The groups hold for the certificate's curve, too (RFC 8422 section 5.1.1).
					g.openssl += ":P-256"
					g.curl += ":P-256"
					g.node += ":P-256"
					g.java += ",secp256r1"
				}
				if g.openssl != "" {
					try("openssl", func(t *testing.T) error {
						return asks(t, "openssl", "s_client", "-quiet", "-connect", server.address, "-servername", name, "-CAfile", site.ca,
							"-verify_return_error", "-groups", g.openssl, "-tls"+strings.Replace(v, ".", "_", 1))
					})
					try("gnutls-cli", func(t *testing.T) error {
						return asks(t, "gnutls-cli", "--x509cafile", site.ca, "--sni-hostname", name, "--verify-hostname", name,
							"--priority", "NORMAL:-VERS-ALL:+VERS-TLS"+v+":-GROUP-ALL:+"+g.gnutls, "-p", port, host)
					})
					try("curl", func(t *testing.T) error {
						return asks(t, "curl", "-sSi", "--cacert", site.ca, "--tlsv"+v, "--tls-max", v, "--curves", g.curl,
							"--resolve", name+":"+port+":"+host, "https://"+name+":"+port+"/")
					})
					try("Java", func(t *testing.T) error {
						return asks(t, "java", "testdata/clients/Client.java", port, name, site.ca, v, g.java)
					})
					try("Node", func(t *testing.T) error {
						return asks(t, "node", "testdata/clients/client.js", port, name, site.ca, v, g.node)
					})
					try("Python", func(t *testing.T) error {
						return asks(t, debianPython, "testdata/clients/client.py", port, name, site.ca, v, g.python)
					})
				}
				try("Go", func(*testing.T) error {
					c := client()
					c.MinVersion, c.MaxVersion, c.CurvePreferences = version, version, []tls.CurveID{g.id}
					conn, err := tls.Dial("tcp", server.address, c)
					if err != nil {
						return err
					}
					defer conn.Close()
					if _, err := io.WriteString(conn, "\n"); err != nil {
						return err
					}
					if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != statusLine+"\r\n" {
						return fmt.Errorf("answered by %q, %v", line, err)
					}
					return nil
				})
			}
		}
	}
}

// debianPython is Debian's, whatever else is first in PATH.
const debianPython = "/usr/bin/python3"

// makes are the clients with their versions, for some may not be Debian's.
func makes(t *testing.T) (all []string) {
	t.Helper()
	for _, command := range [][]string{
		{"openssl", "version"}, {"gnutls-cli", "--version"}, {"curl", "--version"}, {"go", "version"},
		{"java", "--version"}, {debianPython, "--version"}, {"node", "--version"},
	} {
		out, err := exec.Command(command[0], command[1:]...).Output()
		if err != nil {
			t.Errorf("%s: %v", command[0], err)
		}
		number := versionNumber.FindString(string(out))
		all = append(all, filepath.Base(command[0])+" "+number)
	}
	return all
}

// versionNumber is the first number with a dot.
var versionNumber = regexp.MustCompile(`\d+\.\d[\w.]*`)

// asks runs a client that sends an empty line, and waits for the answer.
func asks(t *testing.T, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var problems bytes.Buffer
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		return err
	}
	_, _ = io.WriteString(in, "\n")
	answered := false
	for s := bufio.NewScanner(out); !answered && s.Scan(); {
		answered = strings.Contains(s.Text(), statusLine)
	}
	_ = in.Close()
	cancel()
	_ = cmd.Wait()
	if !answered {
		return fmt.Errorf("%s has no answer: %s", program, &problems)
	}
	return nil
}
