// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"container/heap"
	"container/list"
	"math"
	"net/netip"
	"sync"
	"time"
)

// turns bounds how many handshakes compute at a time, so that a flood of them
// leaves the processors to what runs already. When there are more, listeners
// take turns by the time that theirs have used (start-time fair queueing, Goyal,
// Vin and Cheng 1996): one whose handshakes are many, or long as those of RSA
// are, waits for itself. The clients of a listener take turns by where they
// come from, and of those from one place the newest is first: who has waited
// for long has given up, or is about to.
//
// What is established comes first: as many processors as the event loops could use for it
// have no turn, as long as one has. Where they wait for processors nevertheless, a
// listener rests after each handshake, the longer the more listeners there are.
type turns struct {
	mu      sync.Mutex
	load    func() (used, waited float64) // for what is established, in processors; nil for no event loops
	all     int                           // turns, one for each processor
	free    int
	kept    int  // of those that are free for the event loops, at most all but one
	scarce  bool // the event loops wait for processors
	looked  time.Time
	waiting int
	active  int           // shares that have somebody who computes or waits, or that rest
	now     time.Duration // share.used of whoever came last
	shares  shares        // those that somebody waits for and that do not rest
}

const (
	// little is how much of a processor established connections may want and are not kept
	// one for.
	little = 0.05
	// scarcity is for what part of the time in which they could run the event loops
	// may wait.
	scarcity = 0.5
	// spared is what part of a turn listeners that rest have together, one in so many.
	spared = 5
	// lookEvery is how often the event loops are asked.
	lookEvery = 10 * time.Millisecond
)

// beside has what is established come first, by the load that the event loops have of it.
func (t *turns) beside(load func() (used, waited float64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.load = load
}

// look asks the event loops, unless it did so just now.
func (t *turns) look() {
	if now := time.Now(); t.load != nil && now.Sub(t.looked) > lookEvery {
		used, waited := t.load()
		want := used + waited
		t.looked, t.kept = now, min(int(math.Ceil(want-little)), t.all-1)
		t.scarce = want > little && waited > scarcity*want
	}
}

// ready tells whether there is a turn. When there is none somebody computes, who
// will give one.
func (t *turns) ready() bool {
	t.look()
	return t.free > t.kept
}

// share is the part that one listener has of the turns. The zero value is ready.
type share struct {
	used    time.Duration // computing, or turns.now if that was more when it came last
	held    int           // turns
	resting int           // how many of its handshakes it rests from
	active  bool          // counted in turns.active
	index   int           // in turns.shares, while somebody waits and it does not rest
	sources list.List     // of *source, the next one first
	byPlace map[netip.Prefix]*list.Element
}

// source are the clients of a listener that wait and come from one place.
type source struct {
	place   netip.Prefix
	waiting list.List // of *waiter, oldest first
}

// waiter is a handshake that waits for its turn.
type waiter struct {
	share  *share
	source *list.Element // nil when it waits no more
	at     *list.Element // in source.waiting
	turn   chan bool     // gets one value: whether it has come
}

// place is what the addresses of one network have in common, as far as one can
// tell: what a customer of a provider gets.
func place(a netip.Addr) netip.Prefix {
	bits := 56
	if a.Is4() {
		bits = 24
	}
	p, _ := a.Prefix(bits)
	return p
}

// take returns nil when it is the caller's turn at once, else what to wait for.
func (t *turns) take(s *share, client netip.Addr) *waiter {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.note(s)
	s.used = max(s.used, t.now)
	if len(t.shares) == 0 && s.resting == 0 && t.ready() {
		t.free--
		s.held++
		t.now = s.used
		return nil
	}
	w := &waiter{share: s, turn: make(chan bool, 1)}
	t.waiting++
	if s.sources.Len() == 0 {
		s.byPlace = map[netip.Prefix]*list.Element{}
		if s.resting == 0 {
			heap.Push(&t.shares, s)
		}
	}
	p := place(client)
	if w.source = s.byPlace[p]; w.source == nil {
		w.source = s.sources.PushFront(&source{place: p})
		s.byPlace[p] = w.source
	}
	w.at = w.source.Value.(*source).waiting.PushBack(w)
	t.next() // the event loops may use less by now
	return w
}

// give ends a turn in which a handshake has used a processor for so long.
func (t *turns) give(s *share, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.note(s)
	s.used += took
	s.held--
	t.look()
	waits := s.sources.Len() > 0 && s.resting == 0 // as its place in the heap says
	switch {
	case t.scarce:
		if waits {
			heap.Remove(&t.shares, s.index)
		}
		s.resting++
		time.AfterFunc(t.rest(took), func() { t.rested(s) })
	case waits:
		heap.Fix(&t.shares, s.index)
	}
	t.free++
	t.next()
}

// rest is for how long a listener rests from a handshake that took so long.
func (t *turns) rest(took time.Duration) time.Duration {
	return time.Duration(spared*t.active-1) * took
}

// rested ends a listener's rest from a handshake.
func (t *turns) rested(s *share) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.note(s)
	s.resting--
	if s.resting == 0 && s.sources.Len() > 0 {
		s.used = max(s.used, t.now)
		heap.Push(&t.shares, s)
	}
	t.next()
}

// next gives the turns that there are to those that wait.
func (t *turns) next() {
	for len(t.shares) > 0 && t.ready() {
		t.free--
		next := t.shares[0]
		next.held++
		t.now = next.used
		e := next.sources.Front()
		next.sources.MoveToBack(e)
		t.end(e.Value.(*source).waiting.Back().Value.(*waiter), true)
	}
}

// shed ends the wait of one whose turn has not come.
func (t *turns) shed(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.source != nil {
		t.end(w, false)
	}
}

func (t *turns) end(w *waiter, turn bool) {
	s, from := w.share, w.source.Value.(*source)
	defer t.note(s)
	if from.waiting.Remove(w.at); from.waiting.Len() == 0 {
		s.sources.Remove(w.source)
		delete(s.byPlace, from.place)
	}
	if s.sources.Len() == 0 {
		if s.resting == 0 {
			heap.Remove(&t.shares, s.index)
		}
		s.byPlace = nil
	}
	w.source = nil
	t.waiting--
	w.turn <- turn
}

// wait returns whether the turn of w has come. It waits for at most so long.
func (t *turns) wait(w *waiter, most time.Duration) bool {
	timer := time.AfterFunc(most, func() { t.shed(w) })
	defer timer.Stop()
	return <-w.turn
}

// note counts a share as active while it is.
func (t *turns) note(s *share) {
	if active := s.held > 0 || s.resting > 0 || s.sources.Len() > 0; active != s.active {
		s.active = active
		if active {
			t.active++
		} else {
			t.active--
		}
	}
}

// count returns how many wait.
func (t *turns) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.waiting
}

// shares is a heap (container/heap) by the time used.
type shares []*share

func (h shares) Len() int           { return len(h) }
func (h shares) Less(i, j int) bool { return h[i].used < h[j].used }
func (h shares) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *shares) Push(x any) {
	s := x.(*share)
	s.index = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *shares) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return s
}
