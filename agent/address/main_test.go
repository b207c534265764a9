// SPDX-License-Identifier: Apache-2.0

package address

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/leak"
)

const holderEnv = "SLUICE_TEST_HOLDER"

func TestMain(m *testing.M) {
	if os.Getenv(holderEnv) != "" {
		obey(os.Stdin, os.Stdout)
		return
	}
	os.Exit(leak.Of(m.Run).Run())
}

// obey runs a Holder: each line is a command, answered by the failures, or the
// metrics, as JSON.
func obey(in io.Reader, out io.Writer) {
	h := New(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	defer h.Close()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(h)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var failures map[netip.Addr]error
		texts := map[string]string{}
		switch command, rest, _ := strings.Cut(lines.Text(), " "); command {
		case "set":
			var addresses []netip.Addr
			for _, a := range strings.Fields(rest) {
				addresses = append(addresses, netip.MustParseAddr(a))
			}
			failures = h.Set(addresses)
		case "announce":
			h.Announce()
			failures = h.Failures()
		case "back":
			<-h.Back()
		case "leave":
			h.Leave()
		case "failures":
			failures = h.Failures()
		case "metrics":
			texts = gather(registry)
		default:
			panic(command)
		}
		for a, err := range failures {
			texts[a.String()] = err.Error()
		}
		_ = json.NewEncoder(out).Encode(texts)
	}
}

// gather returns the values of metrics.
func gather(from prometheus.Gatherer) map[string]string {
	families, err := from.Gather()
	if err != nil {
		return map[string]string{"error": err.Error()}
	}
	values := map[string]string{}
	for _, f := range families {
		for _, m := range f.Metric {
			l := m.Label[0]
			values[fmt.Sprintf("%s{%s=%s}", f.GetName(), l.GetName(), l.GetValue())] = fmt.Sprint(m.GetGauge().GetValue() + m.GetCounter().GetValue())
		}
	}
	return values
}

// capabilities are the agent's in a cluster.
const capabilities = "+net_admin,+bpf,+perfmon,+net_bind_service"

// holder is a process that holds addresses in a namespace.
type holder struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// start starts a Holder with exactly these capabilities.
func start(t *testing.T, ns *netns.NS, capabilities string) *holder {
	t.Helper()
	cmd := exec.Command("nsenter", "--net="+ns.Path(os.Getpid()),
		"setpriv", "--bounding-set", "-all,"+capabilities, "--inh-caps", "-all", os.Args[0])
	cmd.Env = append(os.Environ(), holderEnv+"=1")
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &holder{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // some tests kill it
	})
	return h
}

// do gives a command and returns the failures.
func (h *holder) do(command string, addresses ...netip.Addr) map[string]string {
	h.t.Helper()
	for _, a := range addresses {
		command += " " + a.String()
	}
	if _, err := io.WriteString(h.in, command+"\n"); err != nil {
		h.t.Fatal(err)
	}
	if !h.out.Scan() {
		h.t.Fatalf("%s: the process ended: %v", command, h.out.Err())
	}
	failures := map[string]string{}
	if err := json.Unmarshal(h.out.Bytes(), &failures); err != nil {
		h.t.Fatal(err)
	}
	return failures
}

// must gives a command that has to succeed.
func (h *holder) must(command string, addresses ...netip.Addr) {
	h.t.Helper()
	if failures := h.do(command, addresses...); len(failures) > 0 {
		h.t.Fatalf("%s: %v", command, failures)
	}
}

// kill ends the process as the kernel does when memory is short.
func (h *holder) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

// host is a machine on the switch.
type host struct {
	*netns.NS
	port      netns.Port
	mac       string
	addresses []netip.Prefix
}

// lan makes a switch and hosts with the addresses 10.77.0.N and fd77::N.
func lan(t *testing.T, hosts int) (*netns.Switch, []*host) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
			t.Fatal("network namespaces need root, and SLUICE_REQUIRE_ROOT is set")
		}
		t.Skip("network namespaces need root")
	}
	s, err := netns.NewSwitch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	var out []*host
	for i := range hosts {
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		h := &host{NS: ns, addresses: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd77::%d/64", i+1))}}
		h.port, err = s.Connect(ns, h.addresses...)
		if err != nil {
			t.Fatal(err)
		}
		within(t, ns, func() error {
			l, err := netlink.LinkByName("eth0")
			if err == nil {
				h.mac = l.Attrs().HardwareAddr.String()
			}
			return err
		})
		out = append(out, h)
	}
	return s, out
}

func within(t *testing.T, ns *netns.NS, f func() error) {
	t.Helper()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

const port = "7000"

// serve answers connections to any address of a host with its name.
func serve(t *testing.T, h *host, name string) {
	t.Helper()
	l, err := h.Listen("tcp", "[::]:"+port)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, name)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// ask connects from a host to an address and returns who answers, and from
// which address the connection came.
func ask(t *testing.T, from *host, a netip.Addr) (name string, source netip.Addr) {
	t.Helper()
	within(t, from.NS, func() error {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(a.String(), port), patience)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		b, err := io.ReadAll(c)
		name, source = string(b), c.LocalAddr().(*net.TCPAddr).AddrPort().Addr()
		return err
	})
	return name, source
}

// neighbor is the link-layer address under which a host knows another address.
func neighbor(t *testing.T, of *host, a netip.Addr) (mac string) {
	t.Helper()
	within(t, of.NS, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		all, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range all {
			if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == a {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}

// on lists on which links a host has an address.
func on(t *testing.T, h *host, a netip.Addr) (links []string) {
	t.Helper()
	within(t, h.NS, func() error {
		have, err := list()
		for _, x := range have {
			if x.addr == a {
				links = append(links, name(x.link))
			}
		}
		return err
	})
	return links
}

const patience = 30 * time.Second

func eventually(t *testing.T, claim string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", patience, claim)
		}
	}
}

// ip runs the operator's tool in a host and returns what it prints.
func ip(t *testing.T, h *host, arguments string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + h.Path(os.Getpid()), "ip"}, strings.Fields(arguments)...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", arguments, err, out)
	}
	return string(out)
}
