// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/leak"
)

// asGateway makes the test binary a gateway: it applies the snapshots that it
// reads and tells how that went, until SIGTERM.
const asGateway = "SLUICE_UDP_TEST_GATEWAY"

func TestMain(m *testing.M) {
	if os.Getenv(asGateway) != "" {
		gatewayMain()
		return
	}
	os.Exit(leak.Of(m.Run).Run())
}

// answer is what a gateway says after each snapshot, or when it is asked with
// "null".
type answer struct {
	Report  map[string]string
	Metrics map[string]float64
}

func gatewayMain() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f := New(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(f)
	go func() {
		in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
		for {
			var s *config.Snapshot
			if err := in.Decode(&s); err != nil {
				return
			}
			a := answer{Metrics: map[string]float64{}}
			if s != nil {
				a.Report = f.Apply(s)
			} else {
				a.Report = f.Report()
			}
			families, err := registry.Gather()
			if err != nil {
				panic(err)
			}
			for _, family := range families {
				for _, m := range family.Metric {
					name := family.GetName()
					for _, l := range m.Label {
						name += " " + l.GetValue()
					}
					a.Metrics[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
			_ = out.Encode(a)
		}
	}()
	if err := f.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// lab is three hosts in a row: clients, the gateway and backends. Backends
// know no way to the clients.
type lab struct {
	t                        *testing.T
	client, gateway, backend *netns.NS
	snapshot                 *config.Snapshot
	process                  *gatewayProcess
}

const (
	clients4, clients6   = "10.77.0.%d", "fd77::%x"
	gateway4, gateway6   = "10.77.0.1", "fd77::1"
	backends4, backends6 = "10.77.1.%d", "fd77:1::%x"
	port                 = 5300
)

func ips(format string, bits, from, to int) []netip.Prefix {
	var out []netip.Prefix
	for i := from; i <= to; i++ {
		out = append(out, netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf(format, i)), bits))
	}
	return out
}

// newLab makes the hosts and starts a gateway without listeners.
func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
			t.Fatal("needs root, and SLUICE_REQUIRE_ROOT is set")
		}
		t.Skip("network namespaces need root")
	}
	l := &lab{t: t, snapshot: &config.Snapshot{}}
	for _, ns := range []**netns.NS{&l.client, &l.gateway, &l.backend} {
		made, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { made.Close() })
		*ns = made
	}
	join := func(a, b *netns.NS, name string, ofA, ofB []netip.Prefix) {
		if err := netns.Veth(a, b, name, ofA, ofB); err != nil {
			t.Fatal(err)
		}
	}
	join(l.client, l.gateway, fmt.Sprintf("slu%dc", os.Getpid()%1e6),
		append(ips(clients4, 24, 10, 60), ips(clients6, 64, 10, 60)...), append(ips(clients4, 24, 1, 2), ips(clients6, 64, 1, 2)...))
	join(l.backend, l.gateway, fmt.Sprintf("slu%db", os.Getpid()%1e6),
		append(ips(backends4, 24, 10, 20), ips(backends6, 64, 10, 20)...), append(ips(backends4, 24, 1, 1), ips(backends6, 64, 1, 1)...))
	// Every refusal is to be heard.
	for _, limit := range []string{"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"} {
		l.sysctl(limit, "0")
	}
	l.forward("1")
	l.process = l.start()
	return l
}

// forward turns forwarding on the gateway on or off.
func (l *lab) forward(value string) {
	l.t.Helper()
	l.sysctl("ipv4/ip_forward", value)
	l.sysctl("ipv6/conf/all/forwarding", value)
}

// sysctl sets something of the gateway's network.
func (l *lab) sysctl(name, value string) {
	l.t.Helper()
	if err := l.gateway.Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }); err != nil {
		l.t.Fatal(err)
	}
}

type gatewayProcess struct {
	l    *lab
	cmd  *exec.Cmd
	in   io.Writer
	out  *json.Decoder
	wait func() error
}

// start runs a gateway, with a command before its own.
func (l *lab) start(prefix ...string) *gatewayProcess {
	l.t.Helper()
	args := append(prefix, "/proc/self/exe")
	if len(prefix) > 0 {
		self, err := os.Executable()
		if err != nil {
			l.t.Fatal(err)
		}
		args[len(prefix)] = self
	}
	p := &gatewayProcess{l: l, cmd: exec.Command(args[0], args[1:]...)}
	p.cmd.Env = append(os.Environ(), asGateway+"=1")
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		l.t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	p.out = json.NewDecoder(stdout)
	if err := l.gateway.Do(p.cmd.Start); err != nil {
		l.t.Fatal(err)
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			l.t.Log("gateway: " + lines.Text())
		}
	}()
	p.wait = sync.OnceValue(func() error {
		<-logged
		return p.cmd.Wait()
	})
	l.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.wait()
	})
	return p
}

// stop ends the gateway by a signal and waits for it.
func (p *gatewayProcess) stop(s syscall.Signal) {
	p.l.t.Helper()
	_ = p.cmd.Process.Signal(s)
	if err := p.wait(); s == syscall.SIGTERM && err != nil {
		p.l.t.Errorf("gateway: %v", err)
	}
}

func (p *gatewayProcess) ask(s *config.Snapshot) answer {
	p.l.t.Helper()
	if s != nil {
		s.Sort()
		if err := s.Validate(); err != nil {
			p.l.t.Fatal(err)
		}
	}
	var a answer
	if err := errors.Join(json.NewEncoder(p.in).Encode(s), p.out.Decode(&a)); err != nil {
		p.l.t.Fatalf("gateway: %v", err)
	}
	return a
}

// apply serves the lab's snapshot and wants no problem.
func (l *lab) apply() {
	l.t.Helper()
	for name, problem := range l.process.ask(l.snapshot).Report {
		if problem != "" {
			l.t.Fatalf("%s: %s", name, problem)
		}
	}
}

// metric reads a counter or gauge, "name label label".
func (l *lab) metric(name string) float64 {
	l.t.Helper()
	v, ok := l.process.ask(nil).Metrics[name]
	if !ok {
		l.t.Errorf("no metric %q", name)
	}
	return v
}

// serve makes the snapshot one listener whose route has backends with weights.
func (l *lab) serve(refs ...config.BackendRef) {
	l.snapshot.Listeners = []config.Listener{{Name: "a/gw/udp", Port: port, Protocol: config.UDP, L4: []config.HostRoute{{Route: "UDPRoute/a/r"}}}}
	l.snapshot.Routes = []config.Route{{Name: "UDPRoute/a/r", Backends: refs}}
}

// endpoints gives a backend its endpoints, by the last part of their addresses.
func (l *lab) endpoints(backend string, numbers ...int) {
	b := config.Backend{Name: backend}
	for _, n := range numbers {
		for _, format := range []string{backends4, backends6} {
			b.Endpoints = append(b.Endpoints, config.Endpoint{Host: fmt.Sprintf(format, n), Port: 53})
		}
	}
	for i := range l.snapshot.Backends {
		if l.snapshot.Backends[i].Name == backend {
			l.snapshot.Backends[i] = b
			return
		}
	}
	l.snapshot.Backends = append(l.snapshot.Backends, b)
}

// answerAll makes every address of a namespace answer datagrams on port 53:
// the number of the endpoint, then who asks, then what it got.
func answerAll(t *testing.T, ns *netns.NS, at ...string) {
	t.Helper()
	for _, host := range at {
		addr := netip.MustParseAddr(host)
		var c net.PacketConn
		if err := ns.Do(func() (err error) {
			c, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 53).String())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		raw := addr.AsSlice()
		number := raw[len(raw)-1]
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(fmt.Appendf(nil, "%d %s %s", number, from, b[:n]), from)
			}
		}()
		t.Cleanup(func() { c.Close() })
	}
}

// answering starts the backends of the lab.
func (l *lab) answering() {
	l.t.Helper()
	var all []string
	for i := 10; i <= 20; i++ {
		all = append(all, fmt.Sprintf(backends4, i), fmt.Sprintf(backends6, i))
	}
	answerAll(l.t, l.backend, all...)
}

// dial opens a client's socket, from an address or "" for any.
func dialFrom(t *testing.T, ns *netns.NS, from, to string) net.Conn {
	t.Helper()
	var c net.Conn
	if err := ns.Do(func() (err error) {
		d := net.Dialer{}
		if from != "" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
		}
		c, err = d.Dial("udp", to)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var datagrams int

// exchange sends a datagram like no other and returns which endpoint answered
// it, and whom that saw. Both ways the content must be right.
func exchange(c net.Conn) (endpoint int, saw string, err error) {
	datagrams++
	payload := fmt.Sprintf("%s-%d-%d", c.LocalAddr(), os.Getpid(), datagrams)
	if _, err := c.Write([]byte(payload)); err != nil {
		return 0, "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
	b := make([]byte, 2048)
	n, err := c.Read(b)
	if err != nil {
		return 0, "", err
	}
	var back string
	if _, err := fmt.Sscanf(string(b[:n]), "%d %s %s", &endpoint, &saw, &back); err != nil || back != payload {
		return 0, "", fmt.Errorf("sent %q, got %q", payload, b[:n])
	}
	return endpoint, saw, nil
}

// mustReach is exchange for those that must work.
func mustReach(t *testing.T, c net.Conn) int {
	t.Helper()
	endpoint, _, err := exchange(c)
	if err != nil {
		t.Fatalf("%s to %s: %v", c.LocalAddr(), c.RemoteAddr(), err)
	}
	return endpoint
}

func to(host string) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// ruleset is what nft(8) lists of the gateway's.
func (l *lab) ruleset() string {
	l.t.Helper()
	out, err := l.run("nft", "list", "ruleset")
	if err != nil {
		l.t.Fatalf("nft: %v: %s", err, out)
	}
	return out
}

// run runs a command on the gateway.
func (l *lab) run(args ...string) (string, error) {
	var out []byte
	err := l.gateway.Do(func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	return string(out), err
}
