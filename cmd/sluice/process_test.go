// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent"
)

// full says whether tests run at the size of the reliability plan; by default
// they are small enough to run often.
var full = os.Getenv("SLUICE_LONG") != ""

const serverName = "gateway.example.com"

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

// gateway is a process "sluice run" with one TLS listener and one endpoint.
type gateway struct {
	t    *testing.T
	dir  string // conf is below it
	port string
	// backend is where the gateway sends everything.
	backend net.Addr
	cmd     *exec.Cmd
	log     *os.File
	// exited is closed when the process has ended; err is how the first one did.
	exited chan struct{}
	err    error
}

// objects are those of a gateway that listens on a port and sends everything to
// another one.
func objects(port, endpoint string) []byte {
	return fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "List", "items": [
{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "test"}, "spec": {
  "gatewayClassName": "sluice", "addresses": [{"value": "127.0.0.1"}], "listeners": [{"name": "tls", "protocol": "TLS", "port": %s,
  "tls": {"mode": "Terminate", "certificateRefs": [{"name": "certificate"}]}}]}},
{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "TLSRoute", "metadata": {"name": "test"}, "spec": {
  "parentRefs": [{"name": "test"}], "hostnames": [%q], "rules": [{"backendRefs": [{"name": "test", "port": 1}]}]}},
{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "test"}, "spec": {"ports": [{"port": 1}]}},
{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "test-1", "labels": {"kubernetes.io/service-name": "test"}},
  "ports": [{"port": %s}], "endpoints": [{"addresses": ["127.0.0.1"]}]}]}`, port, serverName, endpoint)
}

// launch starts a gateway and waits until it serves. prefix is put before the
// command line, as setpriv and the like want it.
func launch(t *testing.T, backend net.Addr, prefix []string, flags ...string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), port: freePort(t), backend: backend, exited: make(chan struct{})}
	if err := os.Mkdir(filepath.Join(g.dir, "conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := newCertificate(time.Now().Add(time.Hour), serverName)
	if err != nil {
		t.Fatal(err)
	}
	g.write("certificate.yaml", c.secret("certificate"))
	g.write("objects.json", objects(g.port, port(backend)))
	if g.log, err = os.Create(filepath.Join(g.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.log.Close() })

	args := append(prefix, "sluice", "run", "-admin", g.admin(), "-metrics", "off", "-pin-dir", g.pins())
	args = append(append(args, flags...), filepath.Join(g.dir, "conf"))
	g.cmd = exec.Command(args[0], args[1:]...)
	g.cmd.Stderr = g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, exited := g.cmd, g.exited // a successor may come
	go func() { defer close(exited); g.err = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		_ = os.RemoveAll(g.pins()) // a killed gateway leaves them to the next one
		if t.Failed() {
			t.Logf("log of the gateway:\n%s", g.logged())
		}
	})
	deadline := time.Now().Add(time.Minute)
	for talk(g.port, serverName) != nil {
		select {
		case <-g.exited:
			t.Fatalf("gateway ended: %v\n%s", g.err, g.logged())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("gateway does not serve:\n%s", g.logged())
		}
	}
	return g
}

func (g *gateway) admin() string { return filepath.Join(g.dir, "admin.sock") }

func (g *gateway) pins() string { return filepath.Join(pinsRoot, "sluice-"+g.port) }

// pinsRoot is where gateways pin their maps: a bpffs, where this process may mount one.
var pinsRoot string

func withBPFFS(run func() int) int {
	dir, err := os.MkdirTemp("", "sluice-bpffs")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.Remove(dir)
	if os.Geteuid() == 0 {
		if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount a bpffs:", err)
			return 1
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	}
	pinsRoot = dir
	return run()
}

func (g *gateway) logged() string {
	b, err := os.ReadFile(g.log.Name())
	if err != nil {
		g.t.Error(err)
	}
	return string(b)
}

// write replaces a file of the folder as an editor does.
func (g *gateway) write(name string, content []byte) {
	g.t.Helper()
	path := filepath.Join(g.dir, "conf", name)
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		g.t.Fatal(err)
	}
}

// end sends a signal and waits until the process has ended.
func (g *gateway) end(s syscall.Signal) error {
	g.t.Helper()
	g.signal(s)
	select {
	case <-g.exited:
		return g.err
	case <-time.After(time.Minute):
		g.t.Fatalf("the gateway does not end:\n%s", g.logged())
		return nil
	}
}

func (g *gateway) signal(s syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(s); err != nil {
		g.t.Fatal(err)
	}
}

// status asks the gateway, in its own words.
func (g *gateway) status() string {
	g.t.Helper()
	resp, err := agent.AdminClient(g.admin()).Get("http://agent/status")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// scrape reads the metrics, by name and labels as they are written.
func (g *gateway) scrape(address string) map[string]float64 {
	g.t.Helper()
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if i := strings.LastIndexByte(lines.Text(), ' '); i > 0 && !strings.HasPrefix(lines.Text(), "#") {
			v, err := strconv.ParseFloat(lines.Text()[i+1:], 64)
			if err != nil {
				g.t.Fatal(err)
			}
			out[lines.Text()[:i]] = v
		}
	}
	if lines.Err() != nil || len(out) == 0 {
		g.t.Fatalf("%d metrics: %v", len(out), lines.Err())
	}
	return out
}

// connect is a client that takes nothing but close_notify for an end.
func (g *gateway) connect() (*tls.Conn, error) { return g.connectTo(serverName, nil) }

// noProbes leaves it to the gateway to ask after silent peers.
const noProbes = -1

// connectTo asks for a server name, and resumes a session of the cache where there
// is one.
func (g *gateway) connectTo(name string, sessions tls.ClientSessionCache) (*tls.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: noProbes}
	raw, err := d.Dial("tcp", "127.0.0.1:"+g.port)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(2 * time.Minute))
	c := tls.Client(strict{raw}, &tls.Config{ServerName: name, InsecureSkipVerify: true, ClientSessionCache: sessions})
	if err := c.Handshake(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

// strict makes a bare FIN an error: crypto/tls takes one between two records
// for an end.
type strict struct{ net.Conn }

var errTruncated = errors.New("FIN without close_notify")

func (s strict) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errTruncated
	}
	return n, err
}

// serveTCP handles each connection on a goroutine of its own, and waits for all
// of them at the end of the test.
func serveTCP(t *testing.T, handle func(c *net.TCPConn)) net.Addr {
	t.Helper()
	lc := net.ListenConfig{KeepAlive: noProbes}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("the backend: %v", err)
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr()
}

// echoForever is echo for connections that stay.
func echoForever(c *net.TCPConn) {
	_ = c.SetDeadline(time.Time{})
	echo(c)
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

// opening reads the six bytes that a connection opens with. It answers the one
// of talk itself and returns "".
func opening(c *net.TCPConn) string {
	line := make([]byte, 6)
	if _, err := io.ReadFull(c, line); err != nil {
		return ""
	}
	if string(line) != "hello\n" {
		return string(line)
	}
	_, _ = c.Write(line)
	_ = c.CloseWrite()
	_, _ = io.Copy(io.Discard, c)
	return ""
}
