// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/bench/leak"
)

func TestMain(m *testing.M) {
	reexec()
	os.Exit(leak.Of(m.Run).Run())
}

// gateway is a running server.
type gateway struct {
	t      *testing.T
	s      *Server
	cancel context.CancelFunc
	done   chan error
	access *syncBuffer
}

// run starts a server with a snapshot and stops it with the test.
func run(t *testing.T, s *Server, snap *config.Snapshot) *gateway {
	t.Helper()
	g := &gateway{t: t, s: s, done: make(chan error, 1), access: &syncBuffer{}}
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	// Its clients and backends take all processors.
	s.HandshakeTimeout = cmp.Or(s.HandshakeTimeout, time.Minute)
	s.ConnectTimeout = cmp.Or(s.ConnectTimeout, time.Minute)
	s.AccessLog = slog.New(slog.NewJSONHandler(g.access, nil))
	g.apply(snap)
	var ctx context.Context
	ctx, g.cancel = context.WithCancel(context.Background())
	go func() { g.done <- s.Run(ctx) }()
	t.Cleanup(g.stop)
	return g
}

func (g *gateway) stop() {
	g.cancel()
	select {
	case err, ok := <-g.done:
		if ok && err != nil {
			g.t.Errorf("run: %v", err)
		}
		if ok {
			close(g.done)
		}
	case <-time.After(30 * time.Second):
		g.t.Fatalf("run does not return; connections: %+v", g.s.Connections())
	}
}

func (g *gateway) apply(snap *config.Snapshot) {
	g.t.Helper()
	snap.Sort()
	report := g.s.Apply(snap)
	for _, l := range snap.Listeners {
		if problem := report.Listeners[l.Name]; problem != l.NotServed {
			g.t.Fatalf("listener %s: %q, want %q", l.Name, problem, l.NotServed)
		}
	}
}

// eventually waits for a condition that needs no more than scheduling.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// freePort returns a port that nothing listens on.
func freePort(t testing.TB) uint16 {
	t.Helper()
	port, release, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return port
}

func address(port uint16) string { return net.JoinHostPort("127.0.0.1", itoa(port)) }

var loopback = []netip.Addr{netip.MustParseAddr("127.0.0.1")}

// authority signs the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

var testCA = sync.OnceValue(func() *authority { return newAuthority("test CA") })

func newAuthority(name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	cert, _ := x509.ParseCertificate(der)
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

// certificateFor makes an ECDSA certificate for DNS names.
func certificateFor(t testing.TB, name string, dns ...string) config.Certificate {
	t.Helper()
	return certificateWith(t, name, certKey(t), dns...)
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// certificateWith makes a certificate for a key; the first name is the subject.
func certificateWith(t testing.TB, name string, key crypto.Signer, dns ...string) config.Certificate {
	t.Helper()
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: dns,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	return sign(t, name, key, tmpl, testCA())
}

// sign makes a certificate of a CA.
func sign(t testing.TB, name string, key crypto.Signer, tmpl *x509.Certificate, ca *authority) config.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return config.Certificate{Name: name,
		Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})}
}

// backend is a TCP server of a test. Connections that are still open at the end
// of the test are reset.
func backend(t testing.TB, handle func(c half)) config.Endpoint {
	t.Helper()
	e := server(t, func(c *net.TCPConn) { handle(c) })
	handlers.Store(e, handle)
	return e
}

// handlers are what backends do with their connections, by endpoint.
var handlers sync.Map

// server serves the connections of a TCP listener.
func server(t testing.TB, handle func(c *net.TCPConn)) config.Endpoint {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[*net.TCPConn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tcp := c.(*net.TCPConn)
			mu.Lock()
			open[tcp] = true
			mu.Unlock()
			wg.Go(func() {
				defer func() {
					mu.Lock()
					defer mu.Unlock()
					delete(open, tcp)
					tcp.Close()
				}()
				handle(tcp)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.SetLinger(0)
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return endpoint(l.Addr())
}

func endpoint(a net.Addr) config.Endpoint {
	ap := a.(*net.TCPAddr)
	return config.Endpoint{Host: ap.IP.String(), Port: uint16(ap.Port)}
}

// half is a connection that can end one direction.
type half interface {
	net.Conn
	CloseWrite() error
}

// echo sends back what it reads and ends when the client has ended.
func echo(c half) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

// says answers every connection with a name and its input.
func says(name string) func(half) {
	return func(c half) {
		_, _ = c.Write([]byte(name + "\n"))
		echo(c)
	}
}

// simple is a snapshot with one TLS listener in front of one backend.
func simple(port uint16, cert config.Certificate, to ...config.Endpoint) *config.Snapshot {
	return &config.Snapshot{
		Listeners: []config.Listener{{Name: "l", Addresses: loopback, Port: port, Protocol: config.TLS,
			TLS: &config.ListenerTLS{Certificates: []string{cert.Name}},
			L4:  []config.HostRoute{{Route: "r"}}}},
		Routes:       []config.Route{{Name: "r", Backends: []config.BackendRef{{Backend: "b", Weight: 1}}}},
		Backends:     []config.Backend{{Name: "b", Endpoints: to}},
		Certificates: []config.Certificate{cert},
	}
}

// client is the configuration of a TLS client that trusts the test CA.
func client(sni string) *tls.Config {
	return &tls.Config{RootCAs: testCA().pool, ServerName: sni}
}

// dialTLS connects a client for which only close_notify is an end. Its socket
// is closed with the test.
func dialTLS(t testing.TB, port uint16, c *tls.Config) *tls.Conn {
	t.Helper()
	raw, err := net.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(5 * time.Minute))
	conn := tls.Client(strictConn{raw.(*net.TCPConn)}, c)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// strictConn does not let crypto/tls take a FIN for an end.
type strictConn struct{ *net.TCPConn }

var errFIN = errors.New("FIN without close_notify")

func (s strictConn) Read(p []byte) (int, error) {
	n, err := s.TCPConn.Read(p)
	switch {
	case errors.Is(err, io.EOF) && closed(s.TCPConn): // a write was told of the reset
		err = syscall.ECONNRESET
	case errors.Is(err, io.EOF):
		err = errFIN
	}
	return n, err
}
