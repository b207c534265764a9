// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/terminator/loop"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

func at(network, host byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, network, host}) }

// come returns those of the waiters whose turn has come.
func come(waiters map[string]*waiter) (names []string) {
	for name, w := range waiters {
		select {
		case turn := <-w.turn:
			if turn {
				names = append(names, name)
			}
			delete(waiters, name)
		default:
		}
	}
	return names
}

// Two listeners that always have somebody waiting get as much time each,
// although the handshakes of one take 25 times as long.
func TestListenersTakeTurnsByTime(t *testing.T) {
	var rsa, ecdsa share
	turns := turns{free: 1}
	if turns.take(&rsa, at(1, 1)) != nil {
		t.Fatal("the first one waits")
	}
	runs, took := &rsa, map[*share]time.Duration{&rsa: 25 * time.Millisecond, &ecdsa: time.Millisecond}
	waiting := map[*share]*waiter{}
	used := map[*share]time.Duration{}
	for range 10_000 {
		for _, s := range []*share{&rsa, &ecdsa} {
			if waiting[s] == nil {
				waiting[s] = turns.take(s, at(1, 1))
			}
		}
		used[runs] += took[runs]
		turns.give(runs, took[runs])
		for s, w := range waiting {
			select {
			case <-w.turn:
				runs, waiting[s] = s, nil
			default:
			}
		}
	}
	if ratio := float64(used[&rsa]) / float64(used[&ecdsa]); ratio < .95 || ratio > 1.05 {
		t.Errorf("the listeners have computed for %v and %v", used[&rsa], used[&ecdsa])
	}
}

// A listener that had nobody to serve for long has saved nothing up.
func TestALullIsNoCredit(t *testing.T) {
	var a, b share
	turns := turns{free: 1}
	for range 1000 {
		if turns.take(&a, at(1, 1)) != nil {
			t.Fatal("one that is alone waits")
		}
		turns.give(&a, time.Millisecond)
	}
	turns.take(&a, at(1, 1))
	waiters := map[string]*waiter{"b": turns.take(&b, at(1, 1)), "a": turns.take(&a, at(1, 1)), "b again": turns.take(&b, at(2, 1))}
	var order []string
	for i, s := range []*share{&a, &b, &a} {
		turns.give(s, []time.Duration{1, 2, 1}[i])
		order = append(order, come(waiters)...)
	}
	if len(order) != 3 || order[0] == "a" || order[1] != "a" {
		t.Errorf("turns of %v, want b, a, b", order)
	}
}

// A network with a thousand clients waits for itself, and its newest is first.
func TestNetworksTakeTurns(t *testing.T) {
	var s share
	turns := turns{free: 1}
	turns.take(&s, at(1, 1))
	waiters := map[string]*waiter{"flood, oldest": turns.take(&s, at(1, 2))}
	for i := range 998 {
		turns.take(&s, at(1, byte(i)))
	}
	waiters["flood, newest"] = turns.take(&s, at(1, 3))
	waiters["other"] = turns.take(&s, at(2, 1))
	if n := turns.count(); n != 1001 {
		t.Fatalf("%d wait", n)
	}
	for _, want := range []string{"other", "flood, newest"} {
		turns.give(&s, time.Millisecond)
		if got := come(waiters); len(got) != 1 || got[0] != want {
			t.Errorf("the turn of %v has come, want %s", got, want)
		}
	}
}

// Turns are neither lost nor made, and nobody is told twice, whatever happens
// at a time.
func TestTurnsAreNeitherLostNorMade(t *testing.T) {
	for name, load := range map[string]func() (used, waited float64){
		"no event loops":        nil,
		"event loops that wait": func() (used, waited float64) { return 1, 3 },
		"ever other loads":      func() (used, waited float64) { return 4 * rand.Float64(), rand.Float64() },
	} {
		t.Run(name, func(t *testing.T) { neitherLostNorMade(t, load) })
	}
}

func neitherLostNorMade(t *testing.T, load func() (used, waited float64)) {
	const most = 3
	turns := turns{all: most, free: most, load: load}
	listeners := make([]share, 3)
	var running, shed atomic.Int64
	var wg sync.WaitGroup
	for g := range 16 {
		r := rand.New(rand.NewPCG(uint64(g), 1))
		wg.Go(func() {
			for range 2000 {
				s := &listeners[r.IntN(len(listeners))]
				if w := turns.take(s, at(byte(r.IntN(4)), 1)); w != nil {
					if r.IntN(4) == 0 {
						turns.shed(w)
					}
					if !turns.wait(w, time.Duration(r.IntN(300))*time.Microsecond) {
						shed.Add(1)
						continue
					}
				}
				if n := running.Add(1); n > most {
					t.Errorf("%d compute", n)
				}
				for range r.IntN(1000) {
					_ = rand.Int()
				}
				running.Add(-1)
				turns.give(s, time.Microsecond)
			}
		})
	}
	wg.Wait()
	if turns.free != most || turns.count() != 0 || len(turns.shares) != 0 {
		t.Errorf("at the end %d turns are free of %d, %d wait, %d listeners", turns.free, most, turns.count(), len(turns.shares))
	}
	for i := range listeners {
		eventually(t, "it rests no more", func() bool {
			turns.mu.Lock()
			defer turns.mu.Unlock()
			return listeners[i].resting == 0
		})
		if listeners[i].sources.Len()+len(listeners[i].byPlace)+listeners[i].held > 0 {
			t.Error("a source is left, or a turn")
		}
	}
	if turns.active != 0 {
		t.Errorf("at the end %d listeners are active", turns.active)
	}
	t.Logf("%d were shed", shed.Load())
}

// busy takes every turn of a server until the function that it returns is called.
func busy(s *Server) (free func()) {
	s.init()
	var other share
	n := s.turns.free
	for range n {
		s.turns.take(&other, at(1, 1))
	}
	return func() {
		for range n {
			s.turns.give(&other, 0)
		}
	}
}

// A handshake that waits for its turn is told when it is too late, or the
// connection has to make room.
func TestWhoWaitsTooLongIsReset(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	g := run(t, &Server{HandshakeTimeout: 200 * time.Millisecond}, snap)
	defer busy(g.s)()
	if _, err := tls.Dial("tcp", address(port), client("a.example")); err == nil {
		t.Error("a handshake without a turn")
	}
	g.waitResult(t, "handshake_shed")
	if n := g.s.turns.count(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

func TestWhoMakesRoomWaitsNoMore(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	g := run(t, &Server{HandshakeTimeout: time.Hour}, snap)
	free := busy(g.s)
	over := make(chan struct{})
	go func() {
		defer close(over)
		if c, err := tls.Dial("tcp", address(port), client("a.example")); err == nil {
			c.Close()
			t.Error("a handshake without a turn")
		}
	}()
	eventually(t, "it waits", func() bool { return g.s.turns.count() == 1 })
	g.s.conns.evict()
	<-over
	g.waitResult(t, "handshake_evicted")
	free()
	roundTrip(t, dialTLS(t, port, client("a.example")))
}

// Clients that have left do not cost a signature when their turn comes.
func TestWhoHasLeftGetsNoTurn(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	g := run(t, &Server{HandshakeTimeout: time.Hour}, snap)
	free := busy(g.s)
	raw, err := net.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = tls.Client(raw, client("a.example")).Handshake() }()
	eventually(t, "it waits", func() bool { return g.s.turns.count() == 1 })
	raw.Close()
	for _, c := range g.s.conns.all() {
		eventually(t, "the gateway hears of it", func() bool { return relay.Gone(c.client) })
	}
	free()
	g.waitResult(t, "handshake_failed")
	roundTrip(t, dialTLS(t, port, client("a.example")))
}

// A client that was asked for another ClientHello had its turn. The signature
// is in another one.
func TestASecondClientHelloWaitsForATurn(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	g := run(t, &Server{HandshakeTimeout: time.Hour}, snap)
	free := busy(g.s)
	near, err := net.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	l := g.s.snapshot.Load().listeners["l"]
	leg := &clientLeg{Wire: relay.NewWire(near.(*net.TCPConn)), c: &connection{s: g.s, client: near.(*net.TCPConn), listener: l}, from: at(1, 1)}
	chosen := make(chan error)
	go func() {
		_, err := l.certificate(&tls.ClientHelloInfo{Conn: leg, ServerName: "a.example"})
		chosen <- err
	}()
	eventually(t, "it waits", func() bool { return g.s.turns.count() == 1 })
	free()
	if err := <-chosen; err != nil || leg.OnWait == nil {
		t.Errorf("%v, with a turn: %v", err, leg.OnWait != nil)
	}
	leg.OnWait()
}

// What a handshake pays where nobody waits.
func BenchmarkTurn(b *testing.B) {
	var s share
	turns := turns{free: 1}
	client := at(1, 1)
	for b.Loop() {
		turns.take(&s, client)
		runtime.LockOSThread()
		began := loop.Used()
		turns.give(&s, loop.Used()-began)
		runtime.UnlockOSThread()
	}
}

// What is established comes first: event loops keep the processors that they use, and
// handshakes at least one.
func TestHandshakesLeaveTheEventLoopsTheirProcessors(t *testing.T) {
	var s share
	var load float64
	turns := turns{all: 4, free: 4, load: func() (float64, float64) { return load, 0 }}
	waiting := map[string]*waiter{}
	computing := 0
	for i, step := range []struct {
		load float64
		want int // that compute, when more would like to
	}{{0, 4}, {.04, 4}, {.2, 3}, {1.2, 2}, {9, 1}, {1.02, 3}, {0, 4}} {
		load = step.load
		for j := range 8 {
			turns.looked = time.Time{}
			if w := turns.take(&s, at(1, 1)); w != nil {
				waiting[fmt.Sprint(i, j)] = w
			} else {
				computing++
			}
		}
		for computing += len(come(waiting)); computing > step.want; computing += len(come(waiting)) {
			turns.looked = time.Time{}
			turns.give(&s, time.Millisecond)
			computing--
		}
		if computing != step.want {
			t.Errorf("%d compute beside event loops that use %v processors of 4, want %d", computing, step.load, step.want)
		}
	}
	for ; computing > 0; computing += len(come(waiting)) {
		turns.give(&s, time.Millisecond)
		computing--
	}
	if turns.free != turns.all || turns.count() != 0 {
		t.Errorf("at the end %d turns are free of %d, and %d wait", turns.free, turns.all, turns.count())
	}
}

// While the event loops wait for processors a listener rests after each handshake, and
// the others do not wait for it.
func TestAListenerRestsWhileEventLoopsWait(t *testing.T) {
	var flooded, other share
	scarce := 3.0
	turns := turns{all: 2, free: 2, load: func() (used, waited float64) { return 1, scarce }}
	if turns.take(&flooded, at(1, 1)) != nil {
		t.Fatal("the first one waits")
	}
	waiting := map[string]*waiter{"flood": turns.take(&flooded, at(1, 1))}
	turns.give(&flooded, time.Hour)
	if got := turns.rest(time.Second); got != 4*time.Second {
		t.Errorf("one listener alone rests for %v from a handshake of a second, and has not a fifth", got)
	}
	if turns.take(&other, at(1, 1)) != nil {
		t.Error("another listener waits for one that rests")
	}
	if got := turns.rest(time.Second); got != 9*time.Second {
		t.Errorf("one of two listeners rests for %v from a handshake of a second, and has not a tenth", got)
	}
	turns.give(&other, time.Nanosecond)
	if waiting["flood, later"] = turns.take(&flooded, at(1, 1)); waiting["flood, later"] == nil {
		t.Error("a listener that rests has a turn")
	}
	if w := turns.take(&other, at(1, 1)); w != nil && !turns.wait(w, time.Minute) {
		t.Error("a rest did not end")
	}
	if got := come(waiting); len(got) != 0 {
		t.Errorf("%v of a listener that rests", got)
	}
	scarce, turns.looked = 0, time.Time{}
	turns.give(&other, time.Hour)
	if turns.take(&other, at(1, 1)) != nil {
		t.Error("a listener rests while no event loop waits")
	}
	for _, w := range waiting {
		turns.shed(w)
	}
	if n := turns.count(); n != 0 {
		t.Errorf("%d wait", n)
	}
}
