// SPDX-License-Identifier: Apache-2.0

// Package address holds addresses on this node, which another node may have
// held before: it adds them to a link and tells the neighbors. Assign is the
// choice which node holds which.
//
// All of it happens in the network namespace of the process, by netlink and
// BPF, with CAP_NET_ADMIN and CAP_BPF.
package address

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tick is how often the kernel's state is looked at and addresses renewed.
	tick = time.Second
	// rounds is how often an address is announced, once a tick: a frame may get
	// lost, the port of a switch may be up before it forwards, and a node whose
	// agent was killed answers until its lifetime ends.
	rounds = 4
)

// Holder holds addresses. New makes it, Close ends it.
//
// Addresses that the node has on its own are never touched. Ours are marked
// (IFA_PROTO, which newer "ip address" print as "proto 0x53") and live for some seconds unless they are
// renewed, which the Holder does: nobody answers for the addresses of a process
// that was killed. A process that starts in their time takes them over.
type Holder struct {
	log  *slog.Logger
	stop chan struct{}
	back chan struct{}
	done sync.WaitGroup

	mu       sync.Mutex
	want     map[netip.Addr]*address
	links    map[int]link
	frames   frames
	failures map[netip.Addr]error
	taken    uint64
	released uint64
}

// address is one that this node is to hold.
type address struct {
	link    int  // where it is, 0 when it is nowhere
	own     bool // the node has it without us
	settled bool // on the link where a route leads
	rounds  int  // of announcements to come
}

// New makes a Holder that holds nothing yet.
func New(log *slog.Logger) *Holder {
	h := &Holder{log: log, stop: make(chan struct{}), back: make(chan struct{}, 1), want: map[netip.Addr]*address{},
		links: map[int]link{}, frames: frames{}, failures: map[netip.Addr]error{}}
	h.done.Go(h.run)
	return h
}

// Close stops renewing addresses: those that are held go within seconds,
// unless another process of the node takes them over. To let go of them at
// once, call Set(nil) before.
func (h *Holder) Close() {
	close(h.stop)
	h.done.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	for index := range h.frames {
		h.frames.unload(index)
	}
}

// Set makes the node hold exactly these addresses, announces those that are
// new and returns what failed, by address. What failed is tried again every
// second, as is what somebody else took away; Failures tells how it stands.
func (h *Holder) Set(addresses []netip.Addr) map[netip.Addr]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	want := make(map[netip.Addr]*address, len(addresses))
	for _, a := range addresses {
		a = a.Unmap()
		if want[a] = h.want[a]; want[a] == nil {
			want[a] = &address{}
		}
		want[a].settled = false // routes may have changed
	}
	h.want = want
	h.bring()
	return maps.Clone(h.failures)
}

// Failures are why addresses are not held, not announced, or not let go of.
func (h *Holder) Failures() map[netip.Addr]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.failures)
}

// Missing are the addresses that the node should hold and has not got, with the
// reason. Of those among Failures that are not here the node has the address.
func (h *Holder) Missing() map[netip.Addr]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[netip.Addr]error{}
	for a, s := range h.want {
		if s.link == 0 && !s.own {
			if out[a] = h.failures[a]; out[a] == nil {
				out[a] = fmt.Errorf("hold address %s: it is not there yet", a)
			}
		}
	}
	return out
}

// Announce tells the neighbors again where the addresses are. Needed when this
// node was away from the others for a while: one of them may have held its
// addresses, and this node had them all the time.
func (h *Holder) Announce() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range h.want {
		a.rounds = rounds
	}
	h.bring()
}

// Back has a token after a link on which there are addresses came back: what
// this node was told meanwhile, and who was told of it, may be out of date.
func (h *Holder) Back() <-chan struct{} { return h.back }

// Keep makes the addresses last for a while without being renewed, for another
// process of this node that is about to hold them.
func (h *Holder) Keep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a, s := range h.want {
		if s.link == 0 {
			continue
		}
		if err := put(a, s.link, unix.NLM_F_REPLACE, lifetimeKept); err != nil {
			h.log.Warn("address", "address", a, "error", err)
		}
	}
}

// Leave leaves the addresses to another process of this node: nothing is renewed
// or removed any more.
func (h *Holder) Leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.want)
	clear(h.failures)
}

func (h *Holder) run() {
	t := time.NewTicker(tick)
	defer t.Stop()
	changes, end := watchLinks()
	defer func() { end() }()
	for {
		select {
		case <-h.stop:
			return
		case u, ok := <-changes:
			if !ok { // more than the kernel keeps for us: ask for the rest
				end()
				changes, end = watchLinks()
				continue
			}
			h.mu.Lock()
			if _, ours := h.links[int(u.Index)]; ours {
				h.bring()
			}
			h.mu.Unlock()
		case <-t.C:
			h.mu.Lock()
			if len(h.want) > 0 || len(h.failures) > 0 {
				h.bring()
			}
			h.mu.Unlock()
		}
	}
}

// bring brings the node in line with what is wanted. The caller holds mu.
func (h *Holder) bring() {
	failures := map[netip.Addr]error{}
	if err := h.place(failures); err != nil {
		for a := range h.want {
			failures[a] = err
		}
	}
	h.look()
	by := time.Now().Add(tick)
	for _, a := range slices.SortedFunc(maps.Keys(h.want), netip.Addr.Compare) {
		s := h.want[a]
		if s.rounds == rounds {
			settle(a, by)
		}
		if err := h.tell(a, s); err != nil && failures[a] == nil {
			failures[a] = err
		}
	}
	for a, err := range failures {
		if old := h.failures[a]; old == nil || old.Error() != err.Error() {
			h.log.Error("address", "address", a, "error", err)
		}
	}
	for a := range h.failures {
		if failures[a] == nil {
			h.log.Info("the problem of an address is gone", "address", a)
		}
	}
	h.failures = failures
}

// place puts addresses where they belong and removes the others of ours.
func (h *Holder) place(failures map[netip.Addr]error) error {
	have, err := list()
	if err != nil {
		return err
	}
	found := map[netip.Addr]assigned{}
	own := map[netip.Addr]bool{}
	for _, x := range have {
		switch s := h.want[x.addr]; {
		case !x.ours:
			own[x.addr] = true
		case s != nil && found[x.addr].link == 0:
			found[x.addr] = x
		default:
			if err := remove(x.addr, x.link); err != nil {
				failures[x.addr] = err
			} else if s == nil {
				h.released++
				h.log.Info("address let go", "address", x.addr, "link", name(x.link))
			}
		}
	}
	var table routes
	for _, a := range slices.SortedFunc(maps.Keys(h.want), netip.Addr.Compare) {
		s, x := h.want[a], found[a]
		if s.own = own[a] && x.link == 0; s.own {
			s.link = 0
			continue
		}
		if (x.link == 0 || !s.settled) && table == nil {
			if table, err = mainTable(); err != nil {
				return err
			}
		}
		if err := h.hold(a, s, x, table); err != nil {
			failures[a] = err
		}
	}
	return nil
}

// hold puts an address that is at x, or nowhere, on the link where it belongs.
func (h *Holder) hold(a netip.Addr, s *address, x assigned, table routes) error {
	if !a.IsGlobalUnicast() || a.Zone() != "" {
		return fmt.Errorf("hold address %s: it is not a global unicast address; take it out of the pool", a)
	}
	at := x.link
	if at == 0 || !s.settled {
		// A route that is gone for a moment moves nothing.
		if to := table.link(a); to != loopback || at == 0 {
			at = to
		}
	}
	if at != x.link {
		if err := put(a, at, unix.NLM_F_EXCL, lifetime); err != nil {
			s.link = x.link
			return err
		}
		s.rounds = rounds
		if x.link != 0 {
			if err := remove(a, x.link); err != nil {
				return err
			}
		}
	} else if x.left <= renewBelow {
		if err := put(a, at, unix.NLM_F_REPLACE, lifetime); err != nil {
			return err
		}
	}
	if s.link == 0 {
		s.rounds = rounds
		h.taken++
		h.log.Info("address taken", "address", a, "link", name(at))
	}
	s.link, s.settled = at, at != loopback
	return nil
}

// look learns how the links are on which there are addresses. On one that came
// back everything is announced again.
func (h *Holder) look() {
	links := map[int]link{}
	for _, s := range h.want {
		if s.link <= loopback {
			continue
		}
		now, ok := links[s.link]
		if !ok {
			now = inspect(s.link)
			links[s.link] = now
		}
		if was, known := h.links[s.link]; known && (now.changes != was.changes || !bytes.Equal(now.mac, was.mac)) {
			s.rounds = rounds
			if now.carrier {
				select {
				case h.back <- struct{}{}:
				default:
				}
			}
		}
	}
	for index := range h.frames {
		if _, ok := links[index]; !ok {
			h.frames.unload(index)
		}
	}
	h.links = links
}

// tell announces an address, if that is due.
func (h *Holder) tell(a netip.Addr, s *address) error {
	if s.link == loopback {
		return fmt.Errorf("announce address %s: no route of this node leads to it, so it is on link lo and no neighbor is told; add a route to its subnet, on the link where they are", a)
	}
	on := h.links[s.link]
	if on.mac == nil {
		return nil // nobody asks there
	}
	if s.rounds > 0 && on.carrier {
		s.rounds--
		for _, frame := range announcements(a, on.mac) {
			if err := h.frames.send(s.link, frame); err != nil {
				s.rounds = rounds
				return fmt.Errorf("announce address %s on link %s: %w; neighbors go on sending to the node that had it until they ask again", a, on.name, err)
			}
		}
	}
	if a.Is4() && on.silent != "" {
		return fmt.Errorf("answer for address %s on link %s: %s", a, on.name, on.silent)
	}
	return nil
}
