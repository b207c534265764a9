// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/bpf"
)

// exchange sends and checks keyed streams both ways over a connection's two
// ends, in writes of random sizes, and half-closes each way when it is done.
func exchange(p *pair, key uint64, toBackend, toAgent int64) error {
	type end interface {
		net.Conn
		CloseWrite() error
	}
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	way := func(from, to end, key uint64, n int64) {
		wg.Go(func() {
			if err := keyed.Send(randomWrites{from}, key, n, 40_000); err != nil {
				errs <- fmt.Errorf("send: %w", err)
			} else if err := from.CloseWrite(); err != nil {
				errs <- fmt.Errorf("half-close: %w", err)
			}
		})
		wg.Go(func() {
			if err := keyed.Receive(to, key, n); err != nil {
				errs <- fmt.Errorf("receive: %w", err)
			}
		})
	}
	way(p.agent, p.backend, 2*key, toBackend)
	way(p.backend, p.agent, 2*key+1, toAgent)
	wg.Wait()
	close(errs)
	return <-errs
}

// randomWrites cuts writes into random pieces.
type randomWrites struct{ io.Writer }

func (w randomWrites) Write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = w.Writer.Write(b[n:min(len(b), n+1+rand.IntN(20_000))])
		n += m
	}
	return n, err
}

// T1. SLUICE_LONG=1 for 10,000 connections.
func TestStreamsArriveWholeAndInOrder(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	total := long(500, 10_000)
	before := outcome(t, s, "spliced")
	manyStreams(t, s, l, total, (*pair).warm)
	if n := outcome(t, s, "spliced") - before; n != uint64(total) {
		t.Errorf("%d of %d connections were spliced", n, total)
	}
}

// manyStreams exchanges streams of random sizes over many connections, 50 at a
// time, after something that each begins with.
func manyStreams(t *testing.T, s *Splicer, l *net.TCPListener, total int, begin func(*pair) error) {
	t.Helper()
	count := &figures.Figures{Connections: int64(total)}
	figures.Record(t, count)
	const atATime = 50
	for done := 0; done < total; done += atATime {
		var pairs []*pair
		for range atATime {
			c, err := s.dial(t.Context(), nil, "tcp", addrOf(l).String())
			if err != nil {
				t.Fatal(err)
			}
			b, err := l.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, &pair{splicer: s, agent: c, backend: b})
		}
		var wg sync.WaitGroup
		for i, p := range pairs {
			wg.Go(func() {
				defer p.backend.Close()
				defer p.agent.Close()
				_ = p.agent.SetDeadline(time.Now().Add(time.Minute))
				_ = p.backend.SetDeadline(time.Now().Add(time.Minute))
				if err := begin(p); err != nil {
					t.Errorf("connection %d: %v", done+i, err)
				}
				sizes := rand.New(rand.NewPCG(1, uint64(done+i)))
				up, down := sizes.Int64N(1<<20), sizes.Int64N(1<<20)
				atomic.AddInt64(&count.Bytes, up+down)
				if err := exchange(p, uint64(done+i), up, down); err != nil {
					t.Errorf("connection %d: %v", done+i, err)
				}
			})
		}
		wg.Wait()
	}
}

// T2: connections beyond what the maps hold are ordinary TCP.
func TestFullMapsMeanTCP(t *testing.T) {
	const room = 20
	s := open(t, Options{MaxConnections: room})
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, echo)
	know(t, s, addrOf(l), Auto)
	var conns []*Conn
	for range 3 * room {
		conns = append(conns, dial(t, s, addrOf(l)))
	}
	paths := map[string]int{}
	for i, c := range conns {
		if err := roundTrips(c, 10); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		path, reason := c.Path()
		paths[path+reason]++
	}
	if paths["spliced"] == 0 || paths["spliced"] > room || paths["spliced"]+paths["relaymap_full"] != 3*room {
		t.Errorf("paths are %v, want at most %d spliced and the others map_full", paths, room)
	}
	if n := outcome(t, s, "map_full"); n != uint64(paths["relaymap_full"]) {
		t.Errorf("%d connections counted as map_full, want %d", n, paths["relaymap_full"])
	}
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "there is room again", func() bool { return flows(t, s) == 0 })
	c := dial(t, s, addrOf(l))
	if err := roundTrips(c, 10); err != nil {
		t.Fatal(err)
	}
	expectPath(t, c, PathSpliced, "")
	c.Close()

	// And as T1, where of 50 connections at a time there is room for 20.
	l = listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	spliced, full := outcome(t, s, "spliced"), outcome(t, s, "map_full")
	total := long(200, 10_000)
	manyStreams(t, s, l, total, func(p *pair) error {
		for range earn {
			if err := errors.Join(p.pass(p.agent, p.backend, 16), p.pass(p.backend, p.agent, 16)); err != nil {
				return err
			}
		}
		return nil
	})
	spliced, full = outcome(t, s, "spliced")-spliced, outcome(t, s, "map_full")-full
	if spliced == 0 || full == 0 || spliced+full != uint64(total) {
		t.Errorf("%d connections were spliced and %d found the map full, want some of both and %d in all", spliced, full, total)
	}
}

// T3: bytes that are written before the backend has accepted stay in front.
func TestFirstBytesKeepTheirPlace(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	total := long(1000, 20_000)
	figures.Record(t, &figures.Figures{Connections: int64(total), What: "written before they are accepted"})
	for i := range total {
		c, err := s.dial(t.Context(), nil, "tcp", addrOf(l).String())
		if err != nil {
			t.Fatal(err)
		}
		for n := range 8 {
			if err := sendPattern(c, n, 1); err != nil {
				t.Fatal(err)
			}
		}
		b, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		if err := readPattern(b, 0, 4); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		for n := 8; n < 40; n++ { // earned on the way
			if err := sendPattern(c, n, 1); err != nil {
				t.Fatal(err)
			}
			if err := readPattern(b, n-4, 1); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		_ = c.SetLinger(0)
		c.Close()
		b.Close()
	}
}

// T4: a reader that stalls holds up its sender, not the node. SLUICE_LONG=1
// for 1 GiB and a minute.
func TestStalledReaderIsBounded(t *testing.T) {
	s := splicer(t)
	offered := long[int64](192<<20, 1<<30)
	stall := long(300*time.Millisecond, time.Minute)
	for _, way := range []string{"agent to backend", "backend to agent"} {
		t.Run(way, func(t *testing.T) {
			l := listen(t, "tcp", "127.0.0.1:0")
			know(t, s, addrOf(l), Auto)
			p := ends(t, s, l)
			figures.Record(t, &figures.Figures{Connections: 1, Bytes: offered, Faults: 1, What: "a reader that stalls for " + stall.String()})
			warm(t, p)
			_ = p.agent.SetDeadline(time.Now().Add(5 * time.Minute))
			_ = p.backend.SetDeadline(time.Now().Add(5 * time.Minute))
			var from, to net.Conn = p.agent, p.backend
			unread := unread
			if way != "agent to backend" {
				from, to = p.backend, p.agent
				unread = func(f *bpf.SpliceSlFlow) int64 { return int64(f.Backend.Spliced) - splicedRead(&f.Agent) }
			}
			before := tcpMemory(t)
			sent := make(chan error, 1)
			go func() { sent <- keyed.Send(from, 7, offered, 48<<10) }()

			var most int64
			for end := time.Now().Add(stall); time.Now().Before(end); time.Sleep(time.Millisecond) {
				_, f := p.agent.look()
				if f == nil {
					t.Fatal("the flow is gone")
				}
				most = max(most, unread(f))
			}
			_, f := p.agent.look()
			held := f.Agent.Sent
			if way != "agent to backend" {
				held = f.Backend.Sent
			}
			t.Logf("stalled after %d bytes, %d of them redirected; TCP memory of the machine grew by %d pages",
				held, most, tcpMemory(t)-before)
			if most == 0 || most > Limit {
				t.Errorf("%d bytes lay redirected and unread, want some and at most %d", most, Limit)
			}
			if int64(held) == offered {
				t.Errorf("all %d bytes went to a reader that does not read", offered)
			}
			if err := keyed.Receive(io.LimitReader(to, offered), 7, offered); err != nil {
				t.Error(err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		})
	}
}

// tcpMemory returns the pages that TCP holds.
func tcpMemory(t testing.TB) int {
	t.Helper()
	b, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); fields[0] == "TCP:" {
			n, err := strconv.Atoi(fields[len(fields)-1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no TCP line in /proc/net/sockstat")
	return 0
}

// T6: taking an endpoint away, or the whole splice, loses nothing that is on
// its way.
func TestUnreadBytesSurviveChanges(t *testing.T) {
	const n = 60_000
	for _, tc := range []struct {
		name   string
		change func(*Splicer) error
	}{
		{"endpoints gone", func(s *Splicer) error { return s.SetEndpoints(nil) }},
		{"splicer closed", func(s *Splicer) error { return s.Close() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, Options{})
			l := listen(t, "tcp", "127.0.0.1:0")
			err := s.SetEndpoints([]Endpoint{{Address: addrOf(l), Route: "test/route"}})
			if err != nil {
				t.Fatal(err)
			}
			p := ends(t, s, l)
			warm(t, p)
			for _, w := range []net.Conn{p.agent, p.backend} {
				if err := sendPattern(w, 0, n); err != nil {
					t.Fatal(err)
				}
			}
			if c := p.agent.Counters(); c.SplicedOut < n || c.SplicedIn < n {
				t.Fatalf("the bytes were not redirected: %+v", c)
			}
			if err := tc.change(s); err != nil {
				t.Fatal(err)
			}
			for _, r := range []net.Conn{p.backend, p.agent} {
				if err := readPattern(r, 0, n); err != nil {
					t.Error(err)
				}
			}
			if err := exchange(p, 1, 1<<20, 1<<20); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestReopenedSplicerLeavesOldConnectionsAlone(t *testing.T) {
	first := open(t, Options{})
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, first, addrOf(l), Auto)
	old := ends(t, first, l)
	warm(t, old)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, Options{})
	know(t, second, addrOf(l), Auto)
	fresh := ends(t, second, l)
	warm(t, fresh)
	for name, p := range map[string]*pair{"old": old, "new": fresh} {
		if err := exchange(p, 1, 1<<20, 1<<20); err != nil {
			t.Errorf("%s connection: %v", name, err)
		}
	}
}

// T8: the same addresses and ports, again and again. SLUICE_LONG=1 for 100,000.
func TestReusedPortsDoNotMixConnections(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	port := listen(t, "tcp", "127.0.0.1:0")
	local := port.Addr()
	port.Close()
	total := long(2000, 100_000)
	figures.Record(t, &figures.Figures{Connections: int64(total), Faults: int64(total), What: "a port used again at once"})
	for i := range total {
		d := net.Dialer{LocalAddr: local, Control: func(network, address string, raw syscall.RawConn) error {
			return errors.Join(s.beforeConnect(network, address, raw), reuseAddr(raw))
		}}
		nc, err := d.DialContext(context.Background(), "tcp", addrOf(l).String())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		b, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := nc.(*net.TCPConn).SyscallConn()
		p := &pair{splicer: s, agent: s.newConn(nc.(*net.TCPConn), raw), backend: b}
		for n := range earn + 2 { // the last one is redirected, and left unread every other time
			if err := sendPattern(p.agent, i+n, 100); err != nil {
				t.Fatal(err)
			}
			if n == earn+1 && i%2 == 0 {
				break
			}
			if err := readPattern(p.backend, i+n, 100); err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
		_ = p.agent.SetLinger(0)
		p.agent.Close()
		p.backend.Close()
	}
}
