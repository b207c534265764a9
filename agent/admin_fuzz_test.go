// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/handover"
	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/terminator"
)

// FuzzAdmin says anything on the admin socket of an agent that serves a
// certificate. Its key is in no answer, in none of the forms that a key has, and
// nothing panics.
func FuzzAdmin(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.example"}, NotAfter: time.Now().Add(time.Hour)}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		f.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	scalar, err := key.Bytes()
	if err != nil {
		f.Fatal(err)
	}
	_, body, _ := bytes.Cut(keyPEM, []byte("\n"))
	var secrets [][]byte
	for line := range bytes.Lines(body) {
		secrets = append(secrets, bytes.TrimSpace(line))
	}
	secrets = append(secrets[:len(secrets)-1], // the last line is END
		[]byte("PRIVATE KEY"), scalar, fmt.Appendf(nil, "%x", scalar), bytes.Trim(fmt.Appendf(nil, "%d", scalar), "[]"),
		[]byte(base64.StdEncoding.EncodeToString(keyPEM)[:64]))

	port, release, err := freeport.Take()
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(release)
	admin := filepath.Join(f.TempDir(), "admin.sock")
	var panicked atomic.Bool
	log := slog.New(slog.NewTextHandler(watchFor{"panic serving", &panicked}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := New(Options{Version: "test", Admin: admin, Log: log, Server: &terminator.Server{Log: log}})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	s := &config.Snapshot{
		Listeners: []config.Listener{{Name: "test/gw/tls", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Port: port, Protocol: config.TLS, Hostname: "a.example",
			TLS: &config.ListenerTLS{Certificates: []string{"test/cert"}}, L4: []config.HostRoute{{Route: "TLSRoute/test/r"}}}},
		Routes:       []config.Route{{Name: "TLSRoute/test/r", Backends: []config.BackendRef{{Backend: "b", Weight: 1}}}},
		Backends:     []config.Backend{{Name: "b", Endpoints: []config.Endpoint{{Host: "127.0.0.1", Port: 1}}}},
		Certificates: []config.Certificate{{Name: "test/cert", Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain}), Key: keyPEM}},
	}
	s.Sort()
	if problem := a.Apply(s).Listeners["test/gw/tls"]; problem != "" {
		f.Fatal(problem)
	}

	for _, path := range []string{"/status", "/connections", "/overview?search=a", "/overview?search=%00%ff&search=", "/certificates", "/certificates?name=a.example",
		"/certificates?name=*.", "/routes", "/", "/../status", "/handover", "//", "/status?%"} {
		f.Add([]byte("GET " + path + " HTTP/1.1\r\nHost: agent\r\n\r\n"))
	}
	for _, question := range []string{`{"port":` + fmt.Sprint(port) + `,"sni":"a.example"}`, `{"port":` + fmt.Sprint(port) + `,"sni":"b","client":"127.0.0.1","alpn":["h2"]}`,
		`{"port":1}`, `{"port":-1}`, `{"local":"::1%x","port":1}`, `[`, ``} {
		f.Add(fmt.Appendf(nil, "POST /explain HTTP/1.1\r\nHost: agent\r\nContent-Length: %d\r\n\r\n%s", len(question), question))
	}
	f.Add([]byte("GET /handover HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: " + handover.Protocol + "\r\n\r\nready\n"))
	f.Add([]byte("GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\nGET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		if bytes.Contains(said, []byte("serving")) {
			t.Skip() // the agent would leave: FuzzConversation of agent/handover has that
		}
		c, err := net.Dial("unix", admin)
		if err != nil {
			t.Fatalf("the agent is gone: %v", err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		_, _ = c.Write(said) // what breaks off the writing shows in the answer
		_ = c.(*net.UnixConn).CloseWrite()
		answer, _ := io.ReadAll(c)
		for _, secret := range secrets {
			if bytes.Contains(answer, secret) && !bytes.Contains(said, secret) {
				t.Errorf("%q is in the answer to %q: %s", secret, said, answer)
			}
		}
		if panicked.Load() {
			t.Errorf("panic after %q", said)
		}
	})
}

// watchFor notes when a word is written.
type watchFor struct {
	word string
	seen *atomic.Bool
}

func (w watchFor) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.word)) {
		w.seen.Store(true)
	}
	return len(p), nil
}
