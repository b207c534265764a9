// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/sluice-gateway/sluice/bpf"
)

func TestSelfTestHolds(t *testing.T) {
	for _, c := range splicer(t).SelfTest().Checks {
		if !c.OK {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
		t.Logf("%s: %s", c.Name, c.Detail)
	}
}

func TestRequestsAndResponsesAreSpliced(t *testing.T) {
	s := splicer(t)
	for _, tc := range []struct{ name, network, listen, dial string }{
		{"IPv4", "tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"IPv6", "tcp6", "[::1]:0", "::1"},
		{"IPv4 into a dual-stack listener", "tcp", "[::]:0", "127.0.0.1"},
		{"IPv6 into a dual-stack listener", "tcp", "[::]:0", "::1"},
		{"v4-mapped address", "tcp", "[::]:0", "::ffff:127.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := listen(t, tc.network, tc.listen)
			serve(t, l, echo)
			addr := netip.AddrPortFrom(netip.MustParseAddr(tc.dial), addrOf(l).Port())
			know(t, s, addr, Auto)
			before := outcome(t, s, "spliced")
			c := dial(t, s, addr)
			if err := roundTrips(c, 20); err != nil {
				t.Fatal(err)
			}
			expectPath(t, c, PathSpliced, "")
			want := Counters{Sent: 2000, Received: 2000, SplicedOut: 1600, SplicedIn: 2000}
			if got := c.Counters(); got != want {
				t.Errorf("counters are %+v, want %+v", got, want)
			}
			if n := outcome(t, s, "spliced") - before; n != 1 {
				t.Errorf("%d connections counted as spliced, want 1", n)
			}
		})
	}
}

func TestConnectionsThatMayNotBeSplicedSayWhy(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	for _, tc := range []struct {
		reason string
		setUp  func(t *testing.T)
		writes int
	}{
		{"endpoint_unknown", func(*testing.T) {}, 20},
		{"policy_off", func(t *testing.T) { know(t, s, addrOf(l), Off) }, 20},
		{"reader_unproven", func(t *testing.T) { know(t, s, addrOf(l), Auto) }, 0},
	} {
		t.Run(tc.reason, func(t *testing.T) {
			tc.setUp(t)
			before := outcome(t, s, tc.reason)
			p := ends(t, s, l)
			for range tc.writes {
				if err := p.pass(p.agent, p.backend, 100); err != nil {
					t.Fatal(err)
				}
			}
			expectPath(t, p.agent, PathRelay, tc.reason)
			if err := p.agent.Close(); err != nil {
				t.Fatal(err)
			}
			if err := p.backend.Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "counted", func() bool { return outcome(t, s, tc.reason) == before+1 })
		})
	}
}

// One request and its response: the request by TCP, for the backend is new, the
// response past it.
func TestFirstResponseIsSpliced(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	if err := errors.Join(p.pass(p.agent, p.backend, 300), p.pass(p.backend, p.agent, 30_000)); err != nil {
		t.Fatal(err)
	}
	if got, want := p.agent.Counters(), (Counters{Sent: 300, Received: 30_000, SplicedIn: 30_000}); got != want {
		t.Errorf("counters are %+v, want %+v", got, want)
	}
}

func TestMarkIsNotEnoughForAnotherProcess(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, echo)
	know(t, s, addrOf(l), Auto)
	before := flows(t, s)
	child := start(t, "echo-client", addrOf(l).String())
	child.expect("done")
	if n := flows(t, s) - before; n != 0 {
		t.Errorf("%d flows of another process that uses our mark, want 0", n)
	}
	child.wait()
}

func TestFlowsEndWithTheirConnections(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	before := flows(t, s)
	for i := range 200 {
		p := ends(t, s, l)
		if i%2 == 0 {
			warm(t, p)
		}
		switch i % 4 { // who closes first, and how
		case 0:
			p.agent.Close()
			p.backend.Close()
		case 1:
			p.backend.Close()
			p.agent.Close()
		case 2:
			_ = p.agent.SetLinger(0)
			p.agent.Close()
			p.backend.Close()
		case 3:
			_ = p.backend.SetLinger(0)
			p.backend.Close()
			p.agent.Close()
		}
	}
	eventually(t, "no flow is left", func() bool { return flows(t, s) == before })
	var key bpf.SpliceSlIdent
	var id uint64
	if it := s.objs.SlAnnounced.Iterate(); it.Next(&key, &id) {
		t.Errorf("an announcement is left: %+v", key)
	}
}

func TestWriteAfterCloseWriteFails(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	warm(t, p)
	if err := p.agent.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := p.agent.Write([]byte("late")); n != 0 || err == nil {
		t.Errorf("write after CloseWrite: %d bytes, %v", n, err)
	}
	// The kernel half enforces it too, for both ends.
	if err := p.backend.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]net.Conn{"agent": p.agent.tcp, "backend": p.backend} {
		if n, err := c.Write([]byte("late")); n != 0 || err == nil {
			t.Errorf("%s: write(2) after shutdown(2): %d bytes, %v", name, n, err)
		}
	}
	if n, err := p.backend.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("backend reads %d bytes, %v; want end of file", n, err)
	}
}

func TestConnectionAfterCloseIsPlain(t *testing.T) {
	s := open(t, Options{})
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	hold := ends(t, s, l) // keeps the programs at work
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	p := ends(t, s, l)
	if err := exchange(p, 1, 100_000, 100_000); err != nil {
		t.Error(err)
	}
	expectPath(t, p.agent, PathRelay, ReasonOff)
	warmed := hold.warm()
	if n := hold.agent.Counters(); warmed == nil || n.SplicedOut+n.SplicedIn != 0 {
		t.Errorf("%+v: bytes redirected after Close", n)
	}
}
