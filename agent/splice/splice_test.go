// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-gateway/sluice/bpf"
)

// One Splicer serves most tests: they use endpoints of their own.
var shared struct {
	sync.Once
	*Splicer
	err error
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(playRole(role))
	}
	code := m.Run()
	if shared.Splicer != nil {
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// needRoot skips a test that the kernel half cannot run for.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	if os.Getenv("SLUICE_REQUIRE_ROOT") == "1" {
		t.Fatal("the splice needs root")
	}
	t.Skip("the splice needs root")
}

// long picks the full size of a test when SLUICE_LONG=1 asks for it.
func long[T any](short, full T) T {
	if os.Getenv("SLUICE_LONG") == "1" {
		return full
	}
	return short
}

func splicer(t testing.TB) *Splicer {
	t.Helper()
	needRoot(t)
	shared.Do(func() { shared.Splicer, shared.err = Open(Options{}) })
	if shared.err != nil {
		t.Fatalf("%+v", shared.err)
	}
	return shared.Splicer
}

// open opens a Splicer of the test's own.
func open(t testing.TB, opts Options) *Splicer {
	t.Helper()
	needRoot(t)
	s, err := Open(opts)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// know makes an endpoint known for the time of the test.
func know(t testing.TB, s *Splicer, addr netip.AddrPort, policy Policy) bpf.SpliceSlEndpointKey {
	t.Helper()
	key := bpf.SpliceSlEndpointKey{Ip: addr.Addr().As16(), Port: addr.Port()}
	v := bpf.SpliceSlEndpoint{Policy: bpf.SpliceSlPolicy(policy)}
	text(v.Endpoint[:], addr.String())
	text(v.Route[:], t.Name())
	if err := s.objs.SlEndpoints.Put(key, &v); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.objs.SlEndpoints.Delete(key) })
	return key
}

func endpoint(t testing.TB, s *Splicer, key bpf.SpliceSlEndpointKey) (e bpf.SpliceSlEndpoint) {
	t.Helper()
	if err := s.objs.SlEndpoints.Lookup(key, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// listen listens without MPTCP for the time of the test.
func listen(t testing.TB, network, address string) *net.TCPListener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func addrOf(l net.Listener) netip.AddrPort {
	a := l.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// serve handles each connection of l on a goroutine and waits for them at the
// end of the test.
func serve(t testing.TB, l *net.TCPListener, handle func(*net.TCPConn)) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

// echo sends back what it reads, by read(2) and write(2).
func echo(c *net.TCPConn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

const testTimeout = 20 * time.Second

func dial(t testing.TB, s *Splicer, addr netip.AddrPort) *Conn {
	t.Helper()
	c, err := s.dial(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ends dials l and accepts.
func ends(t testing.TB, s *Splicer, l *net.TCPListener) *pair {
	t.Helper()
	p := &pair{splicer: s, agent: dial(t, s, addrOf(l))}
	var err error
	if p.backend, err = l.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.backend.Close() })
	if err := p.backend.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		t.Fatal(err)
	}
	return p
}

// warm has both directions earn the splice.
func warm(t testing.TB, p *pair) {
	t.Helper()
	if err := p.warm(); err != nil {
		t.Fatal(err)
	}
}

func roundTrips(c net.Conn, n int) error {
	for i := range n {
		if err := sendPattern(c, i, 100); err != nil {
			return err
		}
		if err := readPattern(c, i, 100); err != nil {
			return err
		}
	}
	return nil
}

func expectPath(t testing.TB, c *Conn, path, reason string) {
	t.Helper()
	if p, r := c.Path(); p != path || r != reason {
		t.Errorf("path is %q, reason %q; want %q, %q", p, r, path, reason)
	}
}

func outcome(t testing.TB, s *Splicer, label string) uint64 {
	t.Helper()
	o, err := s.Outcomes()
	if err != nil {
		t.Fatal(err)
	}
	n, ok := o[label]
	if !ok {
		t.Fatalf("no outcome %q in %v", label, o)
	}
	return n
}

// eventually waits until the claim holds.
func eventually(t testing.TB, claim string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(testTimeout); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %s: %s", testTimeout, claim)
		}
	}
}

func flows(t testing.TB, s *Splicer) int {
	t.Helper()
	n := 0
	var k uint64
	var v bpf.SpliceSlFlow
	it := s.objs.SlFlows.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

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
