// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/agent/config"
)

// asking makes the first listener of a snapshot ask for client certificates of
// the test CA.
func asking(snap *config.Snapshot, optional bool) *config.Snapshot {
	l := *snap.Listeners[0].TLS
	l.ClientValidation = &config.ClientValidation{Authorities: []string{"ca"}, Optional: optional}
	snap.Listeners[0].TLS = &l
	snap.Authorities = []config.Authority{testAuthority()}
	return snap
}

// speak makes a round trip as a client with a certificate, or says why not.
func speak(t *testing.T, port uint16, version uint16, cert *config.Certificate) string {
	t.Helper()
	c := client("a.example")
	c.MaxVersion = version
	if cert != nil {
		p := pair(t, *cert)
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p, nil }
	}
	conn := tls.Client(dialTCP(t, port), c)
	defer conn.Close()
	got := make([]byte, 5)
	_, err := conn.Write([]byte("hello"))
	if err == nil {
		_, err = conn.Read(got)
	}
	if err != nil {
		return err.Error()
	}
	_ = conn.CloseWrite()
	_, _ = conn.Read(got)
	return string(got)
}

// TestClientsShowACertificate tries clients on listeners that require a
// certificate, and on such that ask for one.
func TestClientsShowACertificate(t *testing.T) {
	other := newAuthority("other CA")
	alice := issued(t, "alice", testCA(), func(*x509.Certificate) {})
	service := issued(t, "service", testCA(), func(c *x509.Certificate) {
		c.URIs = []*url.URL{parseURL(t, "spiffe://example/ns/a")}
		c.DNSNames = []string{"service.example"}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	server := issued(t, "server", testCA(), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	mallory := issued(t, "mal\x1blory", other, func(*x509.Certificate) {})
	for _, tt := range []struct {
		name             string
		cert             *config.Certificate
		refused          bool // by a listener that requires one
		logged, problems string
	}{
		{"none", nil, true, "", ""},
		{"one of the CA", &alice, false, "CN=alice", ""},
		{"one with names", &service, false, "spiffe://example/ns/a", ""},
		{"one of a server", &server, true, "CN=server", "incompatible key usage"},
		{"one of another CA", &mallory, true, "CN=mal?lory", "unknown authority"},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, optional := range []bool{false, true} {
				mode := map[bool]string{true: "optional", false: "required"}[optional]
				t.Run(strings.Join([]string{tt.name, mode, tls.VersionName(version)}, ", "), func(t *testing.T) {
					port := freePort(t)
					g := run(t, &Server{}, asking(simple(port, certificateFor(t, "c", "a.example"), backend(t, echo)), optional))
					got := speak(t, port, version, tt.cert)
					if tt.refused && !optional {
						if !strings.Contains(got, "tls: ") {
							t.Errorf("got %q, want an alert", got)
						}
						g.waitResult(t, "handshake_failed")
						return
					}
					if got != "hello" {
						t.Fatalf("got %q", got)
					}
					g.waitResult(t, "done")
					r := g.records(t, "connection")[0]
					problem, _ := r["client_certificate_problem"].(string)
					if r["client_certificate"] != tt.logged || !strings.Contains(problem, tt.problems) || (problem == "") != (tt.problems == "") {
						t.Errorf("logged %q, problem %q; want %q, %q", r["client_certificate"], problem, tt.logged, tt.problems)
					}
				})
			}
		}
	}
}

// TestAClientIsKnownWhenItResumes holds that a ticket keeps who the client is.
func TestAClientIsKnownWhenItResumes(t *testing.T) {
	port := freePort(t)
	cert := pair(t, issued(t, "alice", testCA(), func(*x509.Certificate) {}))
	g := run(t, &Server{}, asking(simple(port, certificateFor(t, "c", "a.example"), backend(t, echo)), false))
	var s session
	for _, want := range []bool{false, true} {
		c := client("a.example")
		c.ClientSessionCache, c.Certificates = &s, []tls.Certificate{cert}
		conn := dialTLS(t, port, c)
		roundTrip(t, conn)
		if conn.ConnectionState().DidResume != want {
			t.Errorf("resumed: %v", !want)
		}
		if i := g.s.Connections(); i[len(i)-1].ClientCertificate != "CN=alice" {
			t.Errorf("the client is %+v", i)
		}
		conn.Close()
		eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
	}
}

// TestTicketsEndWithWhatClientsWereCheckedBy: a client must not get in by a
// ticket that it could not get any more.
func TestTicketsEndWithWhatClientsWereCheckedBy(t *testing.T) {
	port := freePort(t)
	cert := pair(t, issued(t, "alice", testCA(), func(*x509.Certificate) {}))
	to := backend(t, echo)
	server := certificateFor(t, "c", "a.example")
	g := run(t, &Server{}, asking(simple(port, server, to), true))
	resumes := func(t *testing.T, s *session) bool {
		c := client("a.example")
		c.ClientSessionCache, c.Certificates = s, []tls.Certificate{cert}
		conn := dialTLS(t, port, c)
		defer conn.Close()
		roundTrip(t, conn)
		return conn.ConnectionState().DidResume
	}
	other := config.Authority{Name: "other", Bundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: newAuthority("other CA").cert.Raw})}
	for _, tt := range []struct {
		name   string
		change func(*config.Snapshot)
		want   bool
	}{
		{"nothing changed", func(*config.Snapshot) {}, true},
		{"a certificate is required now", func(s *config.Snapshot) { s.Listeners[0].TLS.ClientValidation.Optional = false }, false},
		{"a CA more", func(s *config.Snapshot) {
			s.Authorities = append(s.Authorities, other)
			s.Listeners[0].TLS.ClientValidation.Authorities = []string{"ca", "other"}
		}, false},
		{"the bundle has another certificate", func(s *config.Snapshot) {
			s.Authorities[0].Bundle = slices.Concat(s.Authorities[0].Bundle, other.Bundle)
		}, false},
		{"nobody is asked any more", func(s *config.Snapshot) { s.Listeners[0].TLS.ClientValidation = nil }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.apply(asking(simple(port, server, to), true))
			var s session
			resumes(t, &s)
			next := asking(simple(port, server, to), true)
			tt.change(next)
			g.apply(next)
			if got := resumes(t, &s); got != tt.want {
				t.Errorf("resumed: %v, want %v", got, tt.want)
			}
		})
	}
}

// TestAListenerWhoseCAsCannotBeReadServesNobody, rather than everybody.
func TestAListenerWhoseCAsCannotBeReadServesNobody(t *testing.T) {
	port := freePort(t)
	snap := asking(simple(port, certificateFor(t, "c", "a.example"), backend(t, echo)), false)
	g := run(t, &Server{}, snap)
	for _, bundle := range []string{"nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		next := *snap
		next.Authorities = []config.Authority{{Name: "ca", Bundle: []byte(bundle)}}
		if r := g.s.Apply(&next); !strings.Contains(r.Listeners["l"], "authority ca") {
			t.Errorf("%q: report %q", bundle, r.Listeners["l"])
		}
		if got := speak(t, port, 0, nil); !strings.Contains(got, "internal error") {
			t.Errorf("%q: a client got %q", bundle, got)
		}
	}
}

func TestConnectionsTellWhoTheClientIs(t *testing.T) {
	port := freePort(t)
	cert := pair(t, issued(t, "alice", testCA(), func(c *x509.Certificate) { c.EmailAddresses = []string{"alice@example"} }))
	g := run(t, &Server{}, asking(simple(port, certificateFor(t, "c", "a.example"), backend(t, echo)), false))
	c := client("a.example")
	c.Certificates = []tls.Certificate{cert}
	roundTrip(t, dialTLS(t, port, c))
	text, err := json.Marshal(g.s.Connections())
	if err != nil || !strings.Contains(string(text), `"clientCertificate":"alice@example"`) {
		t.Errorf("%s, %v", text, err)
	}
}
