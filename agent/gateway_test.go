// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/agent/splice"
	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/bench/leak"
	"github.com/sluice-gateway/sluice/terminator"
)

// full says whether tests run at the size of the reliability plan; by default
// they are small enough to run often.
var full = os.Getenv("SLUICE_LONG") != ""

// patience bounds every connection of a test: nothing hangs for ever, and a busy
// or emulated machine gets done.
const patience = 30 * time.Minute

// name is the server name of the gateway under test.
const name = "gateway.example.com"

// onAndOff runs a test behind a whole gateway twice, spliced and relayed, with
// the backends in a network namespace of their own where that can be had.
func onAndOff(t *testing.T, test func(t *testing.T, g *gateway)) {
	for _, mode := range []string{"splice on", "splice off"} {
		t.Run(mode, func(t *testing.T) {
			if mode == "splice on" {
				needRoot(t)
			}
			test(t, start(t, mode == "splice on"))
		})
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
		t.Fatal("needs root, and SLUICE_REQUIRE_ROOT is set")
	}
	t.Skip("the splice needs root")
}

// gateway is an agent that runs, and where its backends live.
type gateway struct {
	t       *testing.T
	agent   *agent.Agent
	port    uint16
	spliced bool
	// stop makes the agent drain and returns when it has ended.
	stop func()
	log  *logBuffer

	ns       *netns.NS // nil: backends are on the loopback link
	backend  netip.Addr
	certs    config.Certificate
	client   *tls.Config
	snapshot *config.Snapshot
}

var networks atomic.Int32

// start runs an agent with one TLS listener and no backend.
func start(t *testing.T, spliced bool) *gateway {
	t.Helper()
	g := &gateway{t: t, spliced: spliced, log: &logBuffer{}, backend: netip.MustParseAddr("127.0.0.1")}
	if os.Geteuid() == 0 {
		g.network()
	}
	g.certs, g.client = identity(t)
	port, release, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	g.port = port

	log := slog.New(slog.NewTextHandler(g.log, nil))
	opts := agent.Options{Version: "test", Log: log, Server: &terminator.Server{
		Log: log, AccessLog: slog.New(slog.NewJSONHandler(g.log, nil)), DrainTimeout: 2 * time.Second,
		HandshakeTimeout: 2 * time.Minute, ConnectTimeout: 2 * time.Minute}} // its clients and backends take all processors
	if spliced {
		opts.Splice = &splice.Options{Log: log, PinDir: "/sys/fs/bpf/" + leak.Name() + "agent"}
	}
	if g.agent, err = agent.New(opts); err != nil {
		t.Fatal(err)
	}
	if spliced && !g.agent.Status().Splice.On {
		t.Errorf("no splice: %+v", g.agent.Status().Splice)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.agent.Run(ctx) }()
	g.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(g.stop)
	return g
}

// network makes a namespace for backends and a link to it. Its addresses belong
// to this process and test.
func (g *gateway) network() {
	ns, err := netns.New()
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { ns.Close() })
	n := networks.Add(1)
	net4 := func(host int) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 64 + byte(os.Getpid()%128), byte(os.Getpid() / 128), byte(n*4) + byte(host)})
	}
	link := fmt.Sprintf("sla%d-%d", os.Getpid()%100000, n)
	err = netns.Veth(nil, ns, link, []netip.Prefix{netip.PrefixFrom(net4(1), 30)}, []netip.Prefix{netip.PrefixFrom(net4(2), 30)})
	if err != nil {
		g.t.Fatal(err)
	}
	g.ns, g.backend = ns, net4(2)
}

// serve listens for backend connections and calls handle for each, on a
// goroutine of its own; the connection is closed when handle returns. All of
// them are waited for at the end of the test.
func (g *gateway) serve(handle func(c *net.TCPConn)) config.Endpoint {
	g.t.Helper()
	listen := func() (net.Listener, error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		return lc.Listen(context.Background(), "tcp", net.JoinHostPort(g.backend.String(), "0"))
	}
	var l net.Listener
	var err error
	if g.ns != nil {
		l, err = g.ns.Listen("tcp", net.JoinHostPort(g.backend.String(), "0"))
	} else {
		l, err = listen()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience)) // nothing hangs for ever
				handle(c.(*net.TCPConn))
			})
		}
	})
	g.t.Cleanup(func() { g.stop(); l.Close(); wg.Wait() })
	return config.Endpoint{Host: g.backend.String(), Port: uint16(l.Addr().(*net.TCPAddr).Port)}
}

// route makes the gateway send every connection to the endpoints.
func (g *gateway) route(endpoints ...config.Endpoint) {
	g.t.Helper()
	g.apply([]config.HostRoute{{Route: "TLSRoute/test/all"}},
		[]config.Route{{Name: "TLSRoute/test/all", Backends: []config.BackendRef{{Backend: "test/all:1", Weight: 1}}}},
		[]config.Backend{{Name: "test/all:1", Endpoints: endpoints}})
}

// unroute takes the route away.
func (g *gateway) unroute() { g.t.Helper(); g.apply(nil, nil, nil) }

func (g *gateway) apply(l4 []config.HostRoute, routes []config.Route, backends []config.Backend) {
	g.t.Helper()
	g.snapshot = &config.Snapshot{
		Listeners: []config.Listener{{Name: "test/gateway/tls", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Port: g.port, Protocol: config.TLS, TLS: &config.ListenerTLS{Certificates: []string{g.certs.Name}}, L4: l4}},
		Routes: routes, Backends: backends, Certificates: []config.Certificate{g.certs},
	}
	g.snapshot.Sort()
	for listener, problem := range g.agent.Apply(g.snapshot).Listeners {
		if problem != "" {
			g.t.Errorf("listener %s: %s", listener, problem)
		}
	}
}

// dial is a client. It takes nothing but close_notify for an end.
func (g *gateway) dial() (*tls.Conn, error) {
	d := net.Dialer{Timeout: time.Minute}
	raw, err := d.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", g.port))
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	c := tls.Client(strict{raw.(*net.TCPConn)}, g.client)
	if err := c.Handshake(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

// strict makes a bare FIN an error: crypto/tls takes one between two records
// for an end.
type strict struct{ *net.TCPConn }

var errTruncated = errors.New("FIN without close_notify")

func (s strict) Read(p []byte) (int, error) {
	n, err := s.TCPConn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errTruncated
	}
	return n, err
}

// mustDial is dial for connections that must come about; the test closes them.
func (g *gateway) mustDial() *tls.Conn {
	g.t.Helper()
	c, err := g.dial()
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c
}

// identity makes a certificate and the configuration of clients that trust it.
// Clients resume: a handshake per connection is not what is tested.
func identity(t testing.TB) (config.Certificate, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(chain)
	return config.Certificate{Name: "test/certificate", Chain: chain, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})},
		&tls.Config{ServerName: name, RootCAs: pool, ClientSessionCache: tls.NewLRUClientSessionCache(0)}
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
