// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net/netip"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-gateway/sluice/agent/address"
	"github.com/sluice-gateway/sluice/controller/publication"
)

// Holder holds addresses on this node: address.Holder.
type Holder interface {
	// Set makes the node hold these and returns what failed.
	Set([]netip.Addr) map[netip.Addr]error
	// Failures tells how that stands now, and Missing which of them it has not got.
	Failures() map[netip.Addr]error
	Missing() map[netip.Addr]error
	// Back has a token after a link with addresses came back.
	Back() <-chan struct{}
	// Announce tells the neighbors again where the addresses are.
	Announce()
	// Keep makes the addresses last for another process that is about to hold them.
	Keep()
	// Leave leaves the addresses to another process of this node.
	Leave()
}

// peers watches the Leases of the nodes, to know who lives. Clocks of nodes
// differ, so a Lease counts from when this node saw it change.
type peers struct {
	self string
	seen map[string]sighting // by name of the node
	// apart says that this node itself did not reach the API server lately. It
	// then sees nobody's Lease change, and has no opinion.
	apart bool
	live  []string
}

type sighting struct {
	// watched and asked are the versions of the Lease that came by the watch and
	// by asking, where the watch was behind. Any other one is a sign of life, also
	// a smaller one: that of an API server restored from a backup.
	watched, asked string
	at             time.Time
	lasts          time.Duration
}

func (s *sighting) knows(l *coordinationv1.Lease) bool {
	return l.ResourceVersion == s.watched || l.ResourceVersion == s.asked
}

// observe takes what the Leases are at now. reached is when this node last
// renewed its own. It returns the nodes that are gone silent: before they are
// taken for dead the API server is to be asked, since a watch may lag.
func (p *peers) observe(leases []*coordinationv1.Lease, reached, now time.Time) (silent bool) {
	seen := make(map[string]sighting, len(leases))
	for _, l := range leases {
		n, err := publication.DecodeNode(l)
		if err != nil || n.Name == p.self {
			continue
		}
		s, known := p.seen[n.Name]
		if !known || !s.knows(l) {
			s = sighting{watched: l.ResourceVersion, at: now, lasts: n.Lasts}
		}
		seen[n.Name] = s
	}
	p.seen = seen
	if now.Sub(reached) > lastsHolding {
		p.apart = true
		return false
	}
	if p.apart {
		// Back again: everyone else has as long to show as we were given.
		p.apart = false
		for name, s := range p.seen {
			s.at = now
			p.seen[name] = s
		}
	}
	live := []string{p.self}
	for name, s := range p.seen {
		if now.Sub(s.at) <= s.lasts {
			live = append(live, name)
		}
	}
	slices.Sort(live)
	silent = slices.ContainsFunc(p.live, func(name string) bool {
		s, there := p.seen[name]
		return there && now.Sub(s.at) > s.lasts
	})
	if !silent {
		p.live = live
	}
	return silent
}

// bury takes the silent nodes for dead whose Leases, asked for now, are still
// what they were.
func (p *peers) bury(leases []coordinationv1.Lease, now time.Time) {
	for _, l := range leases {
		n, err := publication.DecodeNode(&l)
		if err != nil {
			continue
		}
		if s, known := p.seen[n.Name]; known && !s.knows(&l) {
			p.seen[n.Name] = sighting{watched: s.watched, asked: l.ResourceVersion, at: now, lasts: n.Lasts}
		}
	}
	p.live = slices.DeleteFunc(p.live, func(name string) bool {
		s, there := p.seen[name]
		return there && now.Sub(s.at) > s.lasts
	})
}

// hold brings the addresses that this node holds in line with who lives. An
// address moves only between nodes that reach the API server: without it
// everything stays where it is.
func (s *Source) hold(ctx context.Context, w *watch, state served) {
	s.holding.Lock()
	defer s.holding.Unlock()
	if s.lease.superseded() {
		s.leave()
		return
	}
	if s.Holder == nil || len(state.addresses) == 0 && len(s.held) == 0 || !w.watchNodes() {
		return
	}
	wasApart := s.peers.apart
	if s.peers.observe(w.leases(), s.lease.renewed(), time.Now()) {
		ctx, cancel := context.WithTimeout(ctx, lastsHolding/2)
		defer cancel()
		now, err := s.lease.client.List(ctx, metav1.ListOptions{LabelSelector: nodeSelector})
		if err != nil {
			return
		}
		before := len(s.peers.live)
		s.peers.bury(now.Items, time.Now())
		if len(s.peers.live) < before {
			s.Log.Info("a node is silent; its addresses move", "live", s.peers.live)
		}
	}
	if s.peers.apart {
		return
	}
	var mine []netip.Addr
	for a, node := range address.Assign(state.addresses, s.peers.live) {
		if node == s.Node {
			mine = append(mine, a)
		}
	}
	slices.SortFunc(mine, netip.Addr.Compare)
	if !slices.Equal(mine, s.held) {
		s.Holder.Set(mine)
		s.Log.Info("addresses to hold", "addresses", mine)
		s.held = mine
	}
	if wasApart {
		s.Holder.Announce()
	}
}

// leave leaves the addresses to the younger process of this node, if there is
// one: two that hold different ones would undo each other's work.
func (s *Source) leave() {
	if s.lease.superseded() && len(s.held) > 0 {
		s.Holder.Leave()
		s.held = nil
	}
}

// unheld are the addresses that this node cannot hold, with the reason.
func (s *Source) unheld() map[string]string {
	var failures map[string]string
	for a, err := range s.Holder.Failures() {
		if failures == nil {
			failures = map[string]string{}
		}
		failures[a.String()] = err.Error()
	}
	return failures
}
