// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// TestASocketStaysWhileAnythingUsesIt changes everything about a port 1,000
// times, under connections that are open all the time and others that come.
func TestASocketStaysWhileAnythingUsesIt(t *testing.T) {
	const rounds, size = 1000, 4 << 20
	port := freePort(t)
	to := backend(t, func(c half) {
		_ = keyed.Send(c, downKey, size, 64<<10)
		_ = c.CloseWrite()
		_ = strict(c)
	})
	base := simple(port, certificateFor(t, "c", "a.example"), to)
	g := run(t, &Server{}, base)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 3 {
		wg.Go(func() {
			for !stop.Load() {
				conn, err := tls.Dial("tcp", address(port), client("a.example"))
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				if err := keyed.Receive(conn, downKey, size); err != nil {
					t.Error(err)
				}
				conn.Close()
				done.Add(1)
			}
		})
	}
	for i := range rounds {
		snap := *base
		l := base.Listeners[0]
		l.Name = fmt.Sprintf("l%d", i%7)
		l.IdleTimeout = time.Duration(1+i%3) * time.Hour
		extra := l
		extra.Name, extra.Hostname = fmt.Sprintf("x%d", i), fmt.Sprintf("x%d.example", i)
		snap.Listeners = []config.Listener{l, extra}
		snap.Backends = []config.Backend{{Name: "b", Endpoints: []config.Endpoint{to, {Host: "::1", Port: uint16(1 + i)}}[:1+i%2]}}
		g.apply(&snap)
		time.Sleep(time.Millisecond) // let some connections begin with this one
	}
	for seen := done.Load(); done.Load() < seen+3 && !t.Failed(); {
		time.Sleep(time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d connections", done.Load())
}

func TestRemovedListenerClosesItsSocketAndKeepsItsConnections(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	g := run(t, &Server{}, snap)
	c := dialTLS(t, port, client("a.example"))
	roundTrip(t, c)
	g.apply(&config.Snapshot{})
	if _, err := net.Dial("tcp", address(port)); err == nil {
		t.Error("the socket still listens")
	}
	roundTrip(t, c)
	g.apply(snap)
	roundTrip(t, dialTLS(t, port, client("a.example")))
	roundTrip(t, c)
}

func TestABusyPortIsReportedAndTakenWhenItIsFree(t *testing.T) {
	busy, other := freePort(t), freePort(t)
	holder, err := net.Listen("tcp", address(busy))
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	snap := simple(busy, certificateFor(t, "c", "a.example"), backend(t, echo))
	l := snap.Listeners[0]
	l.Name, l.Port = "other", other
	snap.Listeners = append(snap.Listeners, l)
	g := run(t, &Server{}, &config.Snapshot{})
	report := g.s.Apply(snap)
	if !strings.Contains(report.Listeners["l"], "address already in use") || report.Listeners["other"] != "" {
		t.Errorf("report: %q", report.Listeners)
	}
	if report.Hash != snap.Hash() {
		t.Error("the report is of another snapshot")
	}
	roundTrip(t, dialTLS(t, other, client("a.example")))
	holder.Close()
	eventually(t, "the listener serves", func() bool { return g.s.Report().Listeners["l"] == "" })
	roundTrip(t, dialTLS(t, busy, client("a.example")))
}

func TestInvalidSnapshotChangesNothing(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	g := run(t, &Server{}, snap)
	bad := simple(port, certificateFor(t, "c", "a.example"))
	bad.Listeners[0].L4[0].Route = "missing"
	if got := g.s.Apply(bad).Listeners["l"]; !strings.Contains(got, "missing") {
		t.Errorf("report: %q", got)
	}
	roundTrip(t, dialTLS(t, port, client("a.example")))
}

func TestAllAddressesAndSingleOnesShareAPort(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "one", "one.example"), backend(t, says("one")))
	snap.Backends = append(snap.Backends, config.Backend{Name: "all", Endpoints: []config.Endpoint{backend(t, says("all"))}})
	snap.Routes = append(snap.Routes, config.Route{Name: "all", Backends: []config.BackendRef{{Backend: "all", Weight: 1}}})
	l := snap.Listeners[0]
	l.Name, l.Addresses, l.L4 = "all", nil, []config.HostRoute{{Route: "all"}}
	both := *snap
	both.Listeners = append([]config.Listener{l}, snap.Listeners...)
	onlyAll := *snap
	onlyAll.Listeners = []config.Listener{l}

	g := run(t, &Server{}, snap)
	want := func(what, wantOne, wantTwo, wantSix string) {
		t.Helper()
		for host, want := range map[string]string{"127.0.0.1": wantOne, "127.0.0.2": wantTwo, "::1": wantSix} {
			if got := says1(host, port); got != want {
				t.Errorf("%s: %s is answered by %q, want %q", what, host, got, want)
			}
		}
	}
	want("one address", "one", "", "")
	g.apply(&both)
	want("one address and all", "one", "all", "all")
	g.apply(&onlyAll)
	want("all addresses", "all", "all", "all")
	g.apply(snap)
	want("one address again", "one", "", "")
}

// says1 returns what the backend behind an address says, "" when nothing
// listens there.
func says1(host string, port uint16) string {
	conn, err := tls.Dial("tcp", net.JoinHostPort(host, itoa(port)), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return ""
	}
	defer conn.Close()
	line := make([]byte, 3)
	_, _ = io.ReadFull(conn, line)
	return string(line)
}

func TestListenersAreNotMPTCP(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	g := run(t, &Server{}, snap)
	ln := g.s.sockets[socketKey{netip.MustParseAddr("127.0.0.1"), port}].ln
	raw, err := ln.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if p := protocolOf(int(fd)); p != 6 {
			t.Errorf("protocol %d, want TCP", p)
		}
	}); err != nil {
		t.Fatal(err)
	}
}

func TestDrainLetsConnectionsFinishAndResetsTheRest(t *testing.T) {
	const size = 1 << 20
	for name := range ways(t, 1, config.Endpoint{Host: "127.0.0.1", Port: 1}) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port, draining := freePort(t), make(chan struct{})
			way := ways(t, port, backend(t, func(c half) {
				<-draining
				_ = keyed.Send(c, downKey, size, 64<<10)
				_ = c.CloseWrite()
				_ = strict(c)
			}))[name]
			s := way.server()
			s.DrainTimeout = 3 * time.Second
			g := run(t, s, way.snap)
			finishes, stays := way.dial(t), way.dial(t)
			eventually(t, "two connections", func() bool { return len(g.s.Connections()) == 2 })
			g.cancel()
			eventually(t, "nothing listens", func() bool { return g.s.Report().Listeners["l"] != "" })
			if c, err := net.Dial("tcp", address(port)); err == nil {
				c.Close()
				t.Error("connected during the drain")
			}
			close(draining)
			if err := keyed.Receive(finishes, downKey, size); err != nil {
				t.Errorf("a transfer during the drain: %v", err)
			}
			if err := finishes.CloseWrite(); err != nil {
				t.Error(err)
			}
			if err := keyed.Receive(stays, downKey, size); err != nil {
				t.Error(err)
			}
			g.waitResult(t, "done")
			g.waitResult(t, "drain_deadline") // stays had its answer, but did not end
			g.stop()
			if n := len(g.s.Connections()); n != 0 {
				t.Errorf("%d connections left", n)
			}
		})
	}
}
