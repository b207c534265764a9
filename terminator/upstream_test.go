// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/sluice-gateway/sluice/agent/config"
)

// secureWeb is an HTTPS backend that answers with what it was told in the
// handshake: name, protocol, server name, client.
func secureWeb(t *testing.T, name string, names ...string) config.Backend {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		client := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			client = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		fmt.Fprintf(w, "%s %s %s %s %s", name, r.Proto, r.TLS.ServerName, client, r.Header.Get("X-Forwarded-Proto"))
	})
	mux.Handle("/chat", websocket.Handler(func(ws *websocket.Conn) { _, _ = io.Copy(ws, ws) }))
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = backendConfig(t, names...)
	s.TLS.ClientAuth = tls.RequestClientCert
	s.StartTLS()
	t.Cleanup(s.Close)
	return config.Backend{Name: name, Endpoints: []config.Endpoint{endpoint(s.Listener.Addr())},
		TLS: &config.BackendTLS{Hostname: "backend.example", Authorities: []string{"ca"}}}
}

// secureWebGateway has two HTTP listeners, of Gateways with a certificate each
// or none, in front of backends that want TLS.
func secureWebGateway(t *testing.T, port uint16) (*gateway, *config.Snapshot) {
	t.Helper()
	h2 := secureWeb(t, "h2", "backend.example")
	h2.Protocol = "h2c"
	snap := &config.Snapshot{
		Listeners: []config.Listener{
			{Name: "a", Hostname: "a.example", Addresses: loopback, Port: port, Protocol: config.HTTP, BackendCertificate: "gateway one",
				HTTP: []config.HTTPHost{host("a.example", "h1")}},
			{Name: "b", Hostname: "*.example", Addresses: loopback, Port: port, Protocol: config.HTTP,
				HTTP: []config.HTTPHost{host("b.example", "h1"), host("h2.example", "h2"), host("wrong.example", "wrong"), host("plain.example", "plain")}},
		},
		Backends:     []config.Backend{secureWeb(t, "h1", "backend.example"), h2, secureWeb(t, "wrong", "other.example"), web(t, "plain")},
		Certificates: []config.Certificate{certificateFor(t, "gateway one"), certificateFor(t, "gateway two")},
		Authorities:  []config.Authority{testAuthority()},
	}
	return run(t, &Server{Metrics: NewMetrics()}, snap), snap
}

func TestHTTPBackendsAreSpokenToWithTLS(t *testing.T) {
	port := freePort(t)
	g, snap := secureWebGateway(t, port)
	b := browser(t, port, 0, false)
	for _, tt := range []struct{ host, want string }{
		{"a.example", "200 HTTP/1 h1 HTTP/1.1 backend.example gateway one http"},
		{"b.example", "200 HTTP/1 h1 HTTP/1.1 backend.example nobody http"},
		{"a.example", "200 HTTP/1 h1 HTTP/1.1 backend.example gateway one http"},
		{"h2.example", "200 HTTP/1 h2 HTTP/2.0 backend.example nobody http"},
		{"wrong.example", "502 HTTP/1 Bad Gateway"},
		{"plain.example", "200 HTTP/1 plain /"},
	} {
		if got := get(t, b, "http://"+tt.host+"/"); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.host, got, tt.want)
		}
	}
	if n := count(t, g.s.Metrics.connectFailures.WithLabelValues(causeTLS)); n != 1 {
		t.Errorf("%v attempts failed by tls", n)
	}

	// Connections of before serve no request under another policy.
	for _, tt := range []struct {
		name   string
		change func(s *config.Snapshot, h1 *config.Backend)
		want   string
	}{
		{"another certificate of the Gateway", func(s *config.Snapshot, h1 *config.Backend) { s.Listeners[0].BackendCertificate = "gateway two" },
			"200 HTTP/1 h1 HTTP/1.1 backend.example gateway two http"},
		{"another host name", func(s *config.Snapshot, h1 *config.Backend) { h1.TLS.Hostname = "other.example" }, "502 HTTP/1 Bad Gateway"},
		{"a name that the backend has not", func(s *config.Snapshot, h1 *config.Backend) {
			h1.TLS.SubjectAltNames = []config.SubjectAltName{{URI: "spiffe://x"}}
		}, "502 HTTP/1 Bad Gateway"},
		{"another CA", func(s *config.Snapshot, h1 *config.Backend) {
			s.Authorities = []config.Authority{{Name: "ca", Bundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: newAuthority("other").cert.Raw})}}
		}, "502 HTTP/1 Bad Gateway"},
		{"a policy that is not valid", func(s *config.Snapshot, h1 *config.Backend) { h1.TLS = &config.BackendTLS{Refused: "no CA"} }, "502 HTTP/1 Bad Gateway"},
		{"no policy", func(s *config.Snapshot, h1 *config.Backend) { h1.TLS = nil }, "400 HTTP/1 Client sent an HTTP request to an HTTPS server."},
		{"all as it was", func(*config.Snapshot, *config.Backend) {}, "200 HTTP/1 h1 HTTP/1.1 backend.example gateway one http"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			get(t, b, "http://a.example/") // leaves an idle connection
			next := *snap
			next.Listeners = append([]config.Listener{}, snap.Listeners...)
			next.Backends = append([]config.Backend{}, snap.Backends...)
			h1 := &next.Backends[slices.IndexFunc(next.Backends, func(b config.Backend) bool { return b.Name == "h1" })]
			policy := *h1.TLS
			h1.TLS = &policy
			tt.change(&next, h1)
			g.apply(&next)
			if got := get(t, b, "http://a.example/"); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			g.apply(snap)
		})
	}
}

func TestWebSocketsPassToABackendWithTLS(t *testing.T) {
	port := freePort(t)
	g, _ := secureWebGateway(t, port)
	c, err := websocket.NewConfig("ws://b.example/chat", "http://origin.example")
	if err != nil {
		t.Fatal(err)
	}
	conn := dialTCP(t, port)
	ws, err := websocket.NewClient(c, conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, msg := range []string{"one", strings.Repeat("x", 100_000)} {
		var got string
		if err := websocket.Message.Send(ws, msg); err != nil {
			t.Fatal(err)
		}
		for len(got) < len(msg) {
			var part string
			if err := websocket.Message.Receive(ws, &part); err != nil {
				t.Fatal(err)
			}
			got += part
		}
		if got != msg {
			t.Errorf("got %d bytes, want %d", len(got), len(msg))
		}
	}
	e := g.s.snapshot.Load().backends["h1"].Endpoints()[0]
	if n := e.Active(); n != 1 {
		t.Errorf("%d connections at the endpoint", n)
	}
	raw(conn).SetLinger(0)
	ws.Close()
	eventually(t, "the backend's connection is gone", func() bool { return e.Active() == 0 })
}

// TestABackendThatOffersNoHTTP2 must not be taken for one that does.
func TestABackendThatOffersNoHTTP2(t *testing.T) {
	port := freePort(t)
	to := secureBackend(t, backendConfig(t, "backend.example"), echo)
	snap := &config.Snapshot{
		Listeners:   []config.Listener{{Name: "a", Addresses: loopback, Port: port, Protocol: config.HTTP, HTTP: []config.HTTPHost{host("", "b")}}},
		Backends:    []config.Backend{{Name: "b", Protocol: "h2c", Endpoints: []config.Endpoint{to}, TLS: &config.BackendTLS{Hostname: "backend.example", Authorities: []string{"ca"}}}},
		Authorities: []config.Authority{testAuthority()},
	}
	g := run(t, &Server{}, snap)
	if got := get(t, browser(t, port, 0, false), "http://b.example/"); got != "502 HTTP/1 Bad Gateway" {
		t.Errorf("got %s", got)
	}
	if n := g.s.snapshot.Load().backends["b"].Endpoints()[0].Active(); n != 0 {
		t.Errorf("%d connections at the endpoint", n)
	}
}

// TestRealClientsAndBackendsWithCertificates runs openssl and curl on both
// sides of the gateway.
func TestRealClientsAndBackendsWithCertificates(t *testing.T) {
	for _, program := range []string{"openssl", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
				t.Fatalf("%s is not installed", program)
			}
			t.Skipf("%s is not installed", program)
		}
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := file("ca.pem", testAuthority().Bundle)
	alice, gw, back := certificateFor(t, "alice"), certificateFor(t, "gateway one"), certificateFor(t, "backend", "backend.example")
	aliceCert, aliceKey := file("alice.pem", alice.Chain), file("alice.key", alice.Key)
	to := config.Endpoint{Host: "127.0.0.1", Port: freePort(t)}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	server := exec.CommandContext(ctx, "openssl", "s_server", "-accept", "127.0.0.1:"+itoa(to.Port), "-cert", file("b.pem", back.Chain), "-key", file("b.key", back.Key),
		"-CAfile", ca, "-Verify", "2", "-verify_return_error", "-rev")
	var log syncBuffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = server.Wait() }()
	eventually(t, "openssl accepts", func() bool { return strings.Contains(log.String(), "ACCEPT") })

	l4, secure := freePort(t), freePort(t)
	snap := asking(reencrypt(simple(l4, certificateFor(t, "c", "a.example"), to)), false)
	snap.Listeners[0].BackendCertificate = "gateway one"
	snap.Listeners = append(snap.Listeners, config.Listener{Name: "web", Addresses: loopback, Port: secure, Protocol: config.HTTPS,
		BackendCertificate: "gateway one", TLS: snap.Listeners[0].TLS, HTTP: []config.HTTPHost{host("", "h1")}})
	snap.Backends = append(snap.Backends, secureWeb(t, "h1", "backend.example"))
	snap.Certificates = append(snap.Certificates, gw)
	run(t, &Server{}, snap)
	sClient := []string{"openssl", "s_client", "-quiet", "-no_ign_eof", "-connect", address(l4), "-servername", "a.example", "-CAfile", ca, "-verify_return_error"}
	curl := []string{"curl", "-sS", "--cacert", ca, "--resolve", "a.example:" + itoa(secure) + ":127.0.0.1", "https://a.example:" + itoa(secure) + "/x"}
	with := []string{"-cert", aliceCert, "-key", aliceKey}
	for _, tt := range []struct {
		name, want string
		command    []string
	}{
		{"openssl to openssl", "olleh", slices.Concat(sClient, with)},
		{"openssl to openssl, TLS 1.2", "olleh", slices.Concat(sClient, with, []string{"-tls1_2"})},
		{"openssl without a certificate", "alert", sClient},
		{"curl", "h1 HTTP/1.1 backend.example gateway one https", slices.Concat(curl, []string{"--cert", aliceCert, "--key", aliceKey})},
		{"curl without a certificate", "alert", curl},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, tt.command[0], tt.command[1:]...)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out syncBuffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_, _ = in.Write([]byte("hello\n"))
			for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), tt.want) && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
			in.Close()
			_ = cmd.Wait()
			if !strings.Contains(out.String(), tt.want) {
				t.Errorf("no %q in the output:\n%s\nbackend:\n%s", tt.want, out.String(), log.String())
			}
		})
	}
}
