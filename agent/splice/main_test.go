// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/leak"
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
	os.Exit(leak.Of(func() int {
		code := m.Run()
		if shared.Splicer != nil {
			if err := shared.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}
		return code
	}).Run())
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

const testTimeout = 2 * time.Minute

func dial(t testing.TB, s *Splicer, addr netip.AddrPort) *Conn {
	t.Helper()
	c, err := s.dial(t.Context(), nil, "tcp", addr.String())
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
