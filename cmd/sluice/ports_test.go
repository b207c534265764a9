// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/figures"
)

// T38: there are more connections to an endpoint than the gateway's host has local ports
// for. Those that are too many are told at once, the log and a metric say what to do, and
// other endpoints are served as before. When some leave others can come. From two
// addresses there are twice as many. 30,000 attempts at 1,000 ports with SLUICE_LONG set, in
// a network namespace.
func TestPortsTowardsAnEndpointRunOut(t *testing.T) {
	ports, attempts := 50, 150
	if full {
		ports, attempts = 1000, 30_000
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			needRoot(t)
			testPorts(t, ports, attempts, 1, splice)
		})
		t.Run("splice "+splice+", two addresses", func(t *testing.T) {
			needRoot(t)
			testPorts(t, ports, attempts, 2, splice, "-source-addresses", "127.0.2.1,127.0.2.2")
		})
	}
}

func testPorts(t *testing.T, ports, attempts, addresses int, splice string, flags ...string) {
	count := &figures.Figures{}
	figures.Record(t, count)
	ns := newNS(t)
	g := launchIn(t, ns, splice, flags...)
	err := ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "40000 %d", 40000+ports-1), 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	// Half as many clients as there are ports share an address, and so have enough.
	dial := func(i int, name string) (c *echoing, err error) {
		err = ns.Do(func() error {
			c, err = g.echoingAs(name, net.IPv4(127, 1, 1, byte(1+i*2/ports)))
			return err
		})
		return c, err
	}
	var open []*echoing
	refused := 0
	for i := range attempts {
		c, err := dial(i, serverName)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		switch err := c.exchange(exchangeSize); {
		case err == nil:
			defer c.Close()
			open = append(open, c)
		case errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE):
			c.Close()
			refused++
		default:
			t.Fatalf("client %d: %v", i, err)
		}
	}
	if len(open) < addresses*ports*9/10 || refused < attempts-addresses*ports {
		t.Errorf("%d connections from %d addresses with %d ports each, and %d refused", len(open), addresses, ports, refused)
	}
	if !strings.Contains(g.logged(), "net.ipv4.ip_local_port_range") {
		t.Error("the log does not say what to do")
	}
	if n := allCounts(t, clientIn(ns), "127.0.0.1:9464")[`sluice_connect_failures_total{cause="local"}`]; int(n) < refused {
		t.Errorf("%v failures are counted, of %d", n, refused)
	}
	for i := range 10 {
		c, err := dial(i, floodedName)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.exchange(exchangeSize), c.finish()); err != nil {
			t.Errorf("a client of another endpoint: %v", err)
		}
	}
	for i, c := range open {
		err := c.exchange(exchangeSize)
		if i < len(open)/2 {
			err = errors.Join(err, c.finish())
		}
		if err != nil {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	eventually(t, "ports are free again", func() bool {
		c, err := dial(0, serverName)
		if err != nil {
			return false
		}
		defer c.Close()
		return c.exchange(exchangeSize) == nil
	})
	count.Connections, count.Bytes = int64(len(open)), int64(2*len(open)+10)*exchangeSize
	count.Faults, count.What = int64(refused), fmt.Sprintf("refused, of %d, with %d local ports", attempts, addresses*ports)
	t.Log(count.Connections, count.Faults, count.What)
}

// launchIn is launch in a network namespace, with two backends there: one for
// serverName, one for floodedName.
func launchIn(t *testing.T, ns *netns.NS, splice string, flags ...string) *gateway {
	t.Helper()
	g := newGateway(t)
	var backends []string
	for range 2 {
		l, err := ns.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := serveEcho(l)
		t.Cleanup(func() { l.Close(); <-done })
		backends = append(backends, port(l.Addr()))
	}
	g.write("objects.json", objects(g.port, backends[0]))
	g.write("other.json", routeTo("other", floodedName, backends[1]))
	g.startIn(ns, splice, flags...)
	for _, name := range []string{serverName, floodedName} {
		eventually(t, name+" is served", func() bool { return ns.Do(func() error { return talk(g.port, name) }) == nil })
	}
	return g
}

// routeTo are the objects that lead another host name of objects to an endpoint.
func routeTo(name, host, port string) []byte {
	return fmt.Appendf(nil, `{"apiVersion": "v1", "kind": "List", "items": [
{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "TLSRoute", "metadata": {"name": %[1]q}, "spec": {
  "parentRefs": [{"name": "test"}], "hostnames": [%[2]q], "rules": [{"backendRefs": [{"name": %[1]q, "port": 1}]}]}},
{"apiVersion": "v1", "kind": "Service", "metadata": {"name": %[1]q}, "spec": {"ports": [{"port": 1}]}},
{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {"name": "%[1]s-1", "labels": {"kubernetes.io/service-name": %[1]q}},
  "ports": [{"port": %[3]s}], "endpoints": [{"addresses": ["127.0.0.1"]}]}]}`, name, host, port)
}

// newGateway has a folder with a certificate for serverName and floodedName, and no
// process yet.
func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir(), port: freePort(t), exited: make(chan struct{})}
	if err := os.Mkdir(filepath.Join(g.dir, "conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := newCertificate(time.Now().Add(time.Hour), serverName, floodedName)
	if err != nil {
		t.Fatal(err)
	}
	g.write("certificate.yaml", c.secret("certificate"))
	return g
}

// startIn starts the process in a network namespace, until the test ends. Its log has
// the access log, too.
func (g *gateway) startIn(ns *netns.NS, splice string, flags ...string) {
	t := g.t
	t.Helper()
	var err error
	if g.log, err = os.Create(filepath.Join(g.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.log.Close() })
	args := append([]string{"--net=" + ns.Path(os.Getpid()), "sluice", "run", "-admin", g.admin(), "-pin-dir", g.pins(),
		"-splice", splice, "-access-log", "-"}, flags...)
	g.cmd = exec.Command("nsenter", append(args, filepath.Join(g.dir, "conf"))...)
	g.cmd.Stdout, g.cmd.Stderr = g.log, g.log
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(g.exited); g.err = g.cmd.Wait() }()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		<-g.exited
		_ = os.RemoveAll(g.pins())
		if t.Failed() {
			t.Logf("log of the gateway:\n%s", g.logged())
		}
	})
}
