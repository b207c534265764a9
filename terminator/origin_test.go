// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// issued makes a certificate of the test CA, or of another one.
func issued(t testing.TB, name string, ca *authority, change func(*x509.Certificate)) config.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	change(tmpl)
	return sign(t, name, certKey(t), tmpl, ca)
}

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestWhichBackendsAreTrusted tries certificates and policies on both kinds of
// listeners. A backend that is not trusted must not see a byte of plain text.
func TestWhichBackendsAreTrusted(t *testing.T) {
	good := func(c *x509.Certificate) { c.DNSNames = []string{"backend.example", "*.wild.example"} }
	spiffe := func(c *x509.Certificate) { c.URIs = []*url.URL{parseURL(t, "spiffe://example/ns/a")} }
	other := newAuthority("other CA")
	names := func(n ...config.SubjectAltName) func(*config.BackendTLS) {
		return func(b *config.BackendTLS) { b.SubjectAltNames = n }
	}
	for _, tt := range []struct {
		name   string
		cert   config.Certificate
		policy func(*config.BackendTLS)
		want   string // of the error, "" when it is trusted
	}{
		{"by its host name", issued(t, "b", testCA(), good), nil, ""},
		{"another host name", issued(t, "b", testCA(), good), func(b *config.BackendTLS) { b.Hostname = "other.example" }, "not other.example"},
		{"another CA", issued(t, "b", other, good), nil, "unknown authority"},
		{"no name at all", issued(t, "backend.example", testCA(), func(*x509.Certificate) {}), nil, "Common Name"},
		{"expired", issued(t, "b", testCA(), func(c *x509.Certificate) { good(c); c.NotAfter = time.Now().Add(-time.Minute) }), nil, "expired"},
		{"for clients only", issued(t, "b", testCA(), func(c *x509.Certificate) {
			good(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), nil, "incompatible key usage"},
		{"by one of several names", issued(t, "b", testCA(), good),
			names(config.SubjectAltName{URI: "spiffe://example/ns/a"}, config.SubjectAltName{Hostname: "backend.example"}), ""},
		{"by none of several names", issued(t, "b", testCA(), good),
			names(config.SubjectAltName{URI: "spiffe://example/ns/a"}, config.SubjectAltName{Hostname: "other.example"}), "none of that is in subjectAltNames"},
		{"the host name is no authentication beside names", issued(t, "b", testCA(), good), names(config.SubjectAltName{Hostname: "other.example"}), "subjectAltNames"},
		{"a name by the certificate's wildcard", issued(t, "b", testCA(), good), names(config.SubjectAltName{Hostname: "x.wild.example"}), ""},
		{"a name under a wildcard", issued(t, "b", testCA(), good), names(config.SubjectAltName{Hostname: "*.example"}), ""},
		{"a wildcard for a wildcard", issued(t, "b", testCA(), good), names(config.SubjectAltName{Hostname: "*.wild.example"}), ""},
		{"by URI", issued(t, "b", testCA(), spiffe), names(config.SubjectAltName{URI: "spiffe://example/ns/a"}), ""},
		{"another URI", issued(t, "b", testCA(), spiffe), names(config.SubjectAltName{URI: "spiffe://example/ns/b"}), "the certificate is for spiffe://example/ns/a"},
		{"names and another CA", issued(t, "b", other, spiffe), names(config.SubjectAltName{URI: "spiffe://example/ns/a"}), "unknown authority"},
		{"names and expired", issued(t, "b", testCA(), func(c *x509.Certificate) { spiffe(c); c.NotAfter = time.Now().Add(-time.Minute) }),
			names(config.SubjectAltName{URI: "spiffe://example/ns/a"}), "expired"},
		{"by the CAs of the system", issued(t, "b", testCA(), good), func(b *config.BackendTLS) { b.System, b.Authorities = true, nil }, "unknown authority|no CA certificates"},
		{"by nobody", issued(t, "b", testCA(), good), func(b *config.BackendTLS) { *b = config.BackendTLS{Refused: "the policy is not valid"} }, "the policy is not valid"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			to := secureBackend(t, &tls.Config{Certificates: []tls.Certificate{pair(t, tt.cert)}}, func(c half) {
				n, _ := io.CopyN(c, c, 5)
				if n > 0 && tt.want != "" {
					t.Error("the backend got plain text")
				}
				_ = strict(c)
			})
			forBoth(t, to, func(t *testing.T, snap *config.Snapshot, dial func(t *testing.T) half) {
				if tt.policy != nil {
					tt.policy(snap.Backends[0].TLS)
				}
				s := &Server{Metrics: NewMetrics()}
				g := run(t, s, snap)
				c := dial(t)
				if tt.want == "" {
					roundTrip(t, c)
					if i := g.s.Connections()[0]; i.Path != "relay" || i.Reason != "backend_tls" {
						t.Errorf("path %s, reason %s", i.Path, i.Reason)
					}
					return
				}
				_, _ = c.Write([]byte("hello"))
				if got := outcome(strict(c)); got != "reset" {
					t.Errorf("client saw %s", got)
				}
				g.waitResult(t, "connect_failed")
				if !slices.ContainsFunc(strings.Split(tt.want, "|"), func(w string) bool { return strings.Contains(g.access.String(), w) }) {
					t.Errorf("the log does not say %q:\n%s", tt.want, g.access)
				}
				if n := count(t, s.Metrics.connectFailures.WithLabelValues(causeTLS)); n != 1 {
					t.Errorf("%v attempts failed by tls", n)
				}
			})
		})
	}
}

// forBoth runs a test with a listener that terminates TLS and one with TCP, in
// front of a backend that wants TLS.
func forBoth(t *testing.T, to config.Endpoint, test func(t *testing.T, snap *config.Snapshot, dial func(t *testing.T) half)) {
	port := freePort(t)
	for name, make := range map[string]func() (*config.Snapshot, func(t *testing.T) half){
		"tls": func() (*config.Snapshot, func(t *testing.T) half) {
			return reencrypt(simple(port, certificateFor(t, "c", "a.example"), to)), func(t *testing.T) half { return dialTLS(t, port, client("a.example")) }
		},
		"tcp": func() (*config.Snapshot, func(t *testing.T) half) {
			snap := reencrypt(simple(port, certificateFor(t, "c", "a.example"), to))
			snap.Listeners[0].TLS, snap.Listeners[0].Protocol = nil, config.TCP
			return snap, func(t *testing.T) half { return dialTCP(t, port) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			snap, dial := make()
			test(t, snap, dial)
		})
	}
}

func TestABackendThatSpeaksNoTLSGetsNoPlainText(t *testing.T) {
	got := make(chan []byte, 8)
	to := backend(t, func(c half) {
		_, _ = c.Write([]byte("+OK ready\r\n"))
		b, _ := io.ReadAll(c)
		got <- b
	})
	forBoth(t, to, func(t *testing.T, snap *config.Snapshot, dial func(t *testing.T) half) {
		g := run(t, &Server{}, snap)
		c := dial(t)
		_, _ = c.Write([]byte("the secret"))
		if got := outcome(strict(c)); got != "reset" {
			t.Errorf("client saw %s", got)
		}
		g.waitResult(t, "connect_failed")
		if b := <-got; len(b) == 0 || b[0] != 22 || strings.Contains(string(b), "secret") {
			t.Errorf("the backend got %q, want a ClientHello", b)
		}
	})
}

func TestABackendIsToldItsNameAndTheProtocolOfTheClient(t *testing.T) {
	told := make(chan *tls.ClientHelloInfo, 1)
	conf := backendConfig(t, "backend.example")
	conf.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { told <- h; return nil, nil }
	conf.NextProtos = []string{"postgresql"}
	port := freePort(t)
	snap := reencrypt(simple(port, certificateFor(t, "c", "a.example"), secureBackend(t, conf, echo)))
	snap.Listeners[0].TLS.ALPN = []string{"postgresql"}
	run(t, &Server{}, snap)
	for _, protocols := range [][]string{nil, {"postgresql"}} {
		c := client("a.example")
		c.NextProtos = protocols
		roundTrip(t, dialTLS(t, port, c))
		if h := <-told; h.ServerName != "backend.example" || strings.Join(h.SupportedProtos, ",") != strings.Join(protocols, ",") {
			t.Errorf("client offers %q: the backend is offered %q for %q", protocols, h.SupportedProtos, h.ServerName)
		}
	}
}

// TestTheGatewayShowsItsCertificate is about spec.tls.backend: each listener
// shows what its Gateway says.
func TestTheGatewayShowsItsCertificate(t *testing.T) {
	shown := make(chan string, 1)
	conf := backendConfig(t, "backend.example")
	conf.ClientAuth, conf.ClientCAs = tls.VerifyClientCertIfGiven, testCA().pool
	to := secureBackend(t, conf, func(c half) {
		name := "nobody"
		if all := c.(*tls.Conn).ConnectionState().PeerCertificates; len(all) > 0 {
			name = all[0].Subject.CommonName
		}
		shown <- name
		echo(c)
	})
	forBoth(t, to, func(t *testing.T, snap *config.Snapshot, dial func(t *testing.T) half) {
		snap.Certificates = append(snap.Certificates, certificateFor(t, "gateway one"), certificateFor(t, "gateway two"))
		g := run(t, &Server{}, snap)
		for _, name := range []string{"", "gateway one", "gateway two"} {
			snap.Listeners[0].BackendCertificate = name
			g.apply(snap)
			roundTrip(t, dial(t))
			if name == "" {
				name = "nobody"
			}
			if got := <-shown; got != name {
				t.Errorf("the backend saw %s, want %s", got, name)
			}
		}
	})
}

func TestABackendThatRefusesTheGatewayIsAReset(t *testing.T) {
	conf := backendConfig(t, "backend.example")
	conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, testCA().pool
	to := secureBackend(t, conf, echo)
	forBoth(t, to, func(t *testing.T, snap *config.Snapshot, dial func(t *testing.T) half) {
		g := run(t, &Server{}, snap)
		c := dial(t)
		_, _ = c.Write([]byte("hello"))
		if got := outcome(strict(c)); got != "reset" {
			t.Errorf("client saw %s", got)
		}
		// With TLS 1.3 the refusal comes after the gateway's handshake.
		g.waitResult(t, "backend_tls_error")
	})
}

// TestEndpointsThatFailTLSAreLeftForOthers holds that a handshake is never
// tried at more than three endpoints for one connection.
func TestEndpointsThatFailTLSAreLeftForOthers(t *testing.T) {
	good := secureBackend(t, backendConfig(t, "backend.example"), echo)
	bad := func() config.Endpoint { return secureBackend(t, backendConfig(t, "other.example"), echo) }
	port := freePort(t)
	cert := certificateFor(t, "c", "a.example")

	s := &Server{Metrics: NewMetrics()}
	run(t, s, reencrypt(simple(port, cert, bad(), good, bad())))
	for range 20 {
		c := dialTLS(t, port, client("a.example"))
		roundTrip(t, c)
		c.Close()
	}
	if n := count(t, s.Metrics.connectFailures.WithLabelValues(causeTLS)); n > 2 {
		t.Errorf("%v failed handshakes in 20 connections: those endpoints are to be tried last", n)
	}

	port = freePort(t)
	s = &Server{Metrics: NewMetrics()}
	g := run(t, s, reencrypt(simple(port, cert, bad(), bad(), bad(), bad(), bad())))
	c := dialTLS(t, port, client("a.example"))
	if got := outcome(strict(c)); got != "reset" {
		t.Errorf("client saw %s", got)
	}
	g.waitResult(t, "connect_failed")
	if n := count(t, s.Metrics.connectFailures.WithLabelValues(causeTLS)); n != maxCostly {
		t.Errorf("%v handshakes for one connection", n)
	}
}

func TestABackendThatNeverShakesHandsTimesOut(t *testing.T) {
	to := backend(t, func(c half) { _, _ = io.Copy(io.Discard, c) })
	forBoth(t, to, func(t *testing.T, snap *config.Snapshot, dial func(t *testing.T) half) {
		s := &Server{Metrics: NewMetrics(), ConnectTimeout: 100 * time.Millisecond}
		g := run(t, s, snap)
		if got := outcome(strict(dial(t))); got != "reset" {
			t.Errorf("client saw %s", got)
		}
		g.waitResult(t, "connect_failed")
		if n := count(t, s.Metrics.connectFailures.WithLabelValues(causeTimeout)); n != 1 {
			t.Errorf("%v timeouts", n)
		}
	})
}

// TestAPolicyTouchesNewConnectionsOnly changes how a backend is spoken to while
// a connection to it is open.
func TestAPolicyTouchesNewConnectionsOnly(t *testing.T) {
	plain := backend(t, echo)
	to := secureBackend(t, backendConfig(t, "backend.example"), echo)
	forBoth(t, to, func(t *testing.T, snap *config.Snapshot, dial func(t *testing.T) half) {
		g := run(t, &Server{}, snap)
		secure := dial(t)
		roundTrip(t, secure)
		next := *snap
		next.Backends = []config.Backend{{Name: "b", Endpoints: []config.Endpoint{plain}}}
		g.apply(&next)
		clear := dial(t)
		roundTrip(t, clear)
		again := *snap
		again.Backends = []config.Backend{{Name: "b", Endpoints: []config.Endpoint{to}, TLS: &config.BackendTLS{Refused: "not valid"}}}
		g.apply(&again)
		if got := outcome(strict(dial(t))); got != "reset" {
			t.Errorf("a new client saw %s", got)
		}
		roundTrip(t, secure)
		roundTrip(t, clear)
	})
}

// TestPassthroughIsNotConcerned: the client speaks TLS with the backend there.
func TestPassthroughIsNotConcerned(t *testing.T) {
	port := freePort(t)
	snap := reencrypt(simple(port, certificateFor(t, "c", "a.example"), secureBackend(t, backendConfig(t, "backend.example"), echo)))
	snap.Listeners[0].TLS = &config.ListenerTLS{Passthrough: true}
	run(t, &Server{}, snap)
	roundTrip(t, dialTLS(t, port, client("backend.example")))
}

func dialTCP(t testing.TB, port uint16) half {
	t.Helper()
	c, err := net.Dial("tcp", address(port))
	if errors.Is(err, syscall.ECONNRESET) {
		return wasReset{}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// wasReset is a connection that was reset before its dial returned.
type wasReset struct{ half }

func (wasReset) Read([]byte) (int, error)  { return 0, syscall.ECONNRESET }
func (wasReset) Write([]byte) (int, error) { return 0, syscall.ECONNRESET }

func TestTextOfPeersIsFitForATerminal(t *testing.T) {
	if got := printable("a\x1b[31m\nb\u202e"); got != "a?[31m?b?" {
		t.Errorf("got %q", got)
	}
	if got := printable(strings.Repeat("é", 400)); len(got) > longestText+3 || !strings.HasSuffix(got, "é…") {
		t.Errorf("got %d bytes, %q", len(got), got[len(got)-8:])
	}
	var secure *backendTLSError
	if err := error(&backendTLSError{err: io.EOF}); !errors.As(err, &secure) || !errors.Is(err, io.EOF) {
		t.Error("the cause is lost")
	}
}
