// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/figures"
)

func newNS(t testing.TB) *netns.NS {
	t.Helper()
	needRoot(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func listenIn(t testing.TB, ns *netns.NS, network, address string) *net.TCPListener {
	t.Helper()
	l, err := ns.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// dialFrom dials inside a namespace from a chosen port; s nil: without a mark.
func dialFrom(ns *netns.NS, s *Splicer, from, to netip.AddrPort) (c *net.TCPConn, err error) {
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Timeout: 5 * time.Second,
		Control: func(network, address string, raw syscall.RawConn) error {
			if s == nil {
				return reuseAddr(raw)
			}
			return errors.Join(s.beforeConnect(network, address, raw), reuseAddr(raw))
		}}
	d.SetMultipathTCP(false)
	err = ns.Do(func() error {
		nc, err := d.DialContext(context.Background(), "tcp", to.String())
		if err == nil {
			c = nc.(*net.TCPConn)
		}
		return err
	})
	return c, err
}

func TestSplicedAcrossNamespaces(t *testing.T) {
	s := splicer(t)
	agent, backend := newNS(t), newNS(t)
	err := netns.Veth(agent, backend, "slsplice",
		[]netip.Prefix{netip.MustParsePrefix("10.231.77.1/24"), netip.MustParsePrefix("fd77::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("10.231.77.2/24"), netip.MustParsePrefix("fd77::2/64")})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"10.231.77.2", "fd77::2"} {
		l := listenIn(t, backend, "tcp", "[::]:0")
		addr := netip.AddrPortFrom(netip.MustParseAddr(address), addrOf(l).Port())
		know(t, s, addr, Auto)
		var c *Conn
		err := agent.Do(func() (err error) {
			c, err = s.dial(t.Context(), nil, "tcp", addr.String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		p := &pair{splicer: s, agent: c, backend: b}
		warm(t, p)
		if err := exchange(p, 9, 4<<20, 4<<20); err != nil {
			t.Error(err)
		}
	}
}

// T7: a pod makes itself a namespace with the addresses of the agent and of
// the victim, and connections with the very same addresses and ports, before
// or after the agent's. It gets nothing. SLUICE_LONG=1 for 100,000 tries.
func TestSameAddressesInAnotherNamespaceGetNothing(t *testing.T) {
	s := splicer(t)
	agent, victim, attacker := newNS(t), newNS(t), newNS(t)
	agentIP, victimIP := netip.MustParseAddr("10.231.78.1"), netip.MustParseAddr("10.231.78.2")
	err := netns.Veth(agent, victim, "slvictim",
		[]netip.Prefix{netip.PrefixFrom(agentIP, 24)}, []netip.Prefix{netip.PrefixFrom(victimIP, 24)})
	if err != nil {
		t.Fatal(err)
	}
	// A pair of links whose both ends are in the attacker's namespace.
	err = netns.Veth(attacker, attacker, "slattack",
		[]netip.Prefix{netip.PrefixFrom(agentIP, 32)}, []netip.Prefix{netip.PrefixFrom(victimIP, 32)})
	if err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(victimIP, 5432)
	know(t, s, to, On)
	lv := listenIn(t, victim, "tcp4", to.String())
	la := listenIn(t, attacker, "tcp4", to.String())

	type squat struct{ client, server *net.TCPConn }
	squatAt := func(from netip.AddrPort) squat {
		t.Helper()
		c, err := dialFrom(attacker, nil, from, to)
		if err != nil {
			t.Fatal(err)
		}
		b, err := la.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		return squat{c, b}
	}
	hangUp := func(conns ...*net.TCPConn) {
		for _, c := range conns {
			_ = c.SetLinger(0)
			_ = c.Close()
		}
	}
	tries := long(300, 100_000)
	figures.Record(t, &figures.Figures{Connections: int64(tries), Faults: int64(tries), What: "the same addresses and ports in another namespace"})
	for i := range tries {
		from := netip.AddrPortFrom(agentIP, uint16(20_000+i%10_000))
		before := i%2 == 0
		var thief squat
		if before {
			thief = squatAt(from)
		}
		c, err := dialFrom(agent, s, from, to)
		if err != nil {
			t.Fatalf("try %d: %v", i, err)
		}
		b, err := lv.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := c.SyscallConn()
		p := &pair{splicer: s, agent: s.newConn(c, raw), backend: b}
		if err := p.warm(); err != nil {
			t.Fatalf("try %d: %v", i, err)
		}
		if !before {
			thief = squatAt(from)
		}
		for n := range 4 {
			if err := p.pass(p.agent, p.backend, 100+n); err != nil {
				t.Fatalf("try %d: %v", i, err)
			}
			if err := p.pass(p.backend, p.agent, 100+n); err != nil {
				t.Fatalf("try %d: %v", i, err)
			}
		}
		for _, stolen := range []*net.TCPConn{thief.client, thief.server} {
			if n := peekNow(t, stolen); n != 0 {
				t.Fatalf("try %d: the other namespace got %d bytes", i, n)
			}
		}
		hangUp(b, thief.client, thief.server)
		_ = p.agent.Close()
	}
}

// peekNow returns how many bytes there are to read, without waiting.
func peekNow(t testing.TB, c *net.TCPConn) (n int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		n, _, err = unix.Recvfrom(int(fd), make([]byte, 100), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			n, err = 0, nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A backend on another node, or behind address translation, never shows up
// here; one outside of our cgroup is the same. The connection is TCP, and soon
// such endpoints are hardly tried any more, while the first connections live on.
func TestPeerThatNeverShowsUpIsTCP(t *testing.T) {
	needRoot(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, echo)
	child := startIn(t, newCgroup(t), "outsider", addrOf(l).String())
	tried := peerElsewhere + (outsiderConns-peerElsewhere+tryAgain-1)/tryAgain
	child.expect(fmt.Sprintf("peer_not_joined %d peer_elsewhere %d spliced 0", tried, outsiderConns-tried))
	child.wait()
}

const (
	peerElsewhere = 16 // PEER_ELSEWHERE
	tryAgain      = 64 // TRY_AGAIN
	outsiderConns = 100
)

// outsider is an agent whose backend is not in its cgroup.
func outsider(args []string) error {
	s, err := Open(Options{Cgroup: args[1]})
	if err != nil {
		return err
	}
	err = s.SetEndpoints([]Endpoint{{Address: netip.MustParseAddrPort(args[0]), Route: "test/outsider"}})
	if err != nil {
		return err
	}
	var conns []net.Conn
	for range outsiderConns {
		c, err := s.Dial(context.Background(), nil, "tcp", args[0])
		if err != nil {
			return err
		}
		if err := roundTrips(c, 10); err != nil {
			return err
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		_ = c.(*Conn).SetLinger(0) // ends at once
		if err := c.Close(); err != nil {
			return err
		}
	}
	o, err := s.Outcomes()
	if err != nil {
		return err
	}
	fmt.Println("peer_not_joined", o["peer_not_joined"], "peer_elsewhere", o["peer_elsewhere"], "spliced", o["spliced"])
	return s.Close()
}
