// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// nodes knows which nodes live and what they say.
//
// Time is counted while the watch works: the leader's own Lease changes every
// two seconds and comes by the same watch. So when the API server, or the way
// to it, was away, nobody died of that.
type nodes struct {
	log *slog.Logger
	now func() time.Time

	mu     sync.Mutex
	last   time.Time     // of the last change of any Lease
	clock  time.Duration // time that passed while Leases changed
	byName map[string]*nodeLease
	// first is when the last of the Leases that were there at the start was renewed.
	first time.Time
}

const (
	// heartbeat is the most by which the clock moves at once: how often the
	// leader renews its Lease.
	heartbeat = 2 * time.Second
	// grace is what a change of a Lease may take to arrive.
	grace = 5 * time.Second
	// skew is by how much the clocks of nodes may differ without anything coming of it.
	skew = time.Minute
	// forgotten is when the Lease of a node that does not live is deleted.
	forgotten = time.Hour
)

// nodeLease is a Lease of a node.
type nodeLease struct {
	lease   *coordinationv1.Lease
	changed time.Duration // on the clock
	node    publication.Node
	unseen  bool // there at the start, and not seen to change since
}

// observe takes note of a Lease that changed, or that is gone. It tells whether
// the node says anything new.
func (n *nodes) observe(l *coordinationv1.Lease, gone bool) (news bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	if !n.last.IsZero() {
		n.clock += min(now.Sub(n.last), heartbeat)
	}
	n.last = now
	if l.Labels[publication.ComponentLabel] != publication.NodeComponent {
		return false
	}
	had := n.byName[l.Name]
	if gone {
		delete(n.byName, l.Name)
		return had != nil
	}
	if n.byName == nil {
		n.byName = map[string]*nodeLease{}
	}
	node, err := publication.DecodeNode(l)
	if err != nil {
		n.log.Warn("node is not counted", "error", err)
		delete(n.byName, l.Name)
		return had != nil
	}
	atStart := had == nil && n.clock < heartbeat
	n.byName[l.Name] = &nodeLease{lease: l, changed: n.clock, node: node, unseen: atStart}
	if atStart && node.Renewed.After(n.first) {
		n.first = node.Renewed
	}
	return had == nil || !sameReport(had.node, node) || !n.lives(had)
}

// sameReport tells whether two reports differ in nothing but when they were
// written.
func sameReport(a, b publication.Node) bool {
	a.Renewed = b.Renewed
	return reflect.DeepEqual(a, b)
}

// lives tells whether a node renewed its Lease lately. At the start that is not known
// yet: all count but those whose last renewal, by the clocks of the nodes, was long
// before that of others. They may be gone for an hour, and would get connections.
func (n *nodes) lives(l *nodeLease) bool {
	if l.unseen && n.first.Sub(l.node.Renewed) > l.node.Lasts+grace+skew {
		return false
	}
	return n.clock-l.changed <= l.node.Lasts+grace
}

// live returns the nodes that live, by name.
func (n *nodes) live() []publication.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []publication.Node
	for _, l := range n.byName {
		if n.lives(l) {
			out = append(out, l.node)
		}
	}
	slices.SortFunc(out, func(a, b publication.Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// dead returns the Leases of nodes that have not lived for long.
func (n *nodes) dead() []*coordinationv1.Lease {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []*coordinationv1.Lease
	for _, l := range n.byName {
		if n.clock-l.changed > forgotten {
			out = append(out, l.lease)
		}
	}
	return out
}

// names of the nodes, for comparison.
func names(live []publication.Node) []string {
	var out []string
	for _, n := range live {
		out = append(out, n.Name)
	}
	return out
}

// addresses by which the nodes are reached, with the node's name. An agent that
// ends makes room for the next one, so its node's count until its Lease ends.
func addresses(live []publication.Node) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, n := range live {
		for _, a := range n.Addresses {
			out[a] = n.Name
		}
	}
	return out
}

// report sums up what live nodes say of what is published, as one node: a part
// is served when all nodes serve it, a listener fails when it fails on one, and a
// backend is empty when it is so on one. It
// returns nothing when there is no node. unpublished are the Gateways whose
// part could not be published, with the reason; wanted are their parts.
func report(live []publication.Node, published map[string]*published, unpublished map[string]string, wanted map[string]translate.Part) []config.Report {
	held := heldAddresses(live)
	live = slices.DeleteFunc(slices.Clone(live), func(n publication.Node) bool { return n.Draining })
	if len(live) == 0 {
		return nil
	}
	serves, cut := live[0].Serves, false
	stale := map[string]bool{}
	failures := map[string]map[string][]string{} // nodes by listener and reason
	empty := map[string]map[string][]string{}    // nodes by backend and reason
	for _, n := range live {
		serves, cut = min(serves, n.Serves), cut || n.Cut
		for gateway := range n.Stale {
			stale[gateway] = true
		}
		gather(failures, n.Failures, n.Name)
		gather(empty, n.Empty, n.Name)
	}
	r := config.Report{Parts: map[string]string{}, Listeners: map[string]string{}, Addresses: held, Empty: map[string]string{}}
	for backend, reasons := range empty {
		r.Empty[backend] = reasonText(reasons, len(live))
	}
	for gateway, p := range published {
		r.Parts[gateway] = ""
		if p.version <= serves && !stale[gateway] {
			r.Parts[gateway] = p.hash
		}
		for _, l := range p.listeners {
			// A node that cannot tell of all failures speaks well of nothing.
			if why := reasonText(failures[l], len(live)); why != "" || !cut {
				r.Listeners[l] = why
			}
		}
	}
	for gateway, why := range unpublished {
		if part := wanted[gateway].Snapshot; part != nil {
			for i := range part.Listeners {
				r.Listeners[part.Listeners[i].Name] = why
			}
		}
	}
	return []config.Report{r}
}

// heldAddresses are the addresses that some node holds, or cannot hold.
func heldAddresses(live []publication.Node) map[netip.Addr]string {
	out := map[netip.Addr]string{}
	for _, n := range live {
		for text, why := range n.Unheld {
			if a, err := netip.ParseAddr(text); err == nil && out[a] < why {
				out[a] = why // of several the same one each time
			}
		}
	}
	for _, n := range live {
		for _, a := range n.Held {
			out[a] = ""
		}
	}
	return out
}

// gather adds what a node says to what others say.
func gather(all map[string]map[string][]string, said map[string]string, node string) {
	for of, why := range said {
		if all[of] == nil {
			all[of] = map[string][]string{}
		}
		all[of][why] = append(all[of][why], node)
	}
}

// reasonText says why something is as it is, and where.
func reasonText(nodesByReason map[string][]string, all int) string {
	var out []string
	for _, why := range slices.Sorted(maps.Keys(nodesByReason)) {
		on := nodesByReason[why]
		const most = 3
		switch {
		case len(on) == all:
			out = append(out, why)
		case len(on) > most:
			out = append(out, fmt.Sprintf("%s (on %s and %d more of %d nodes)", why, strings.Join(on[:most], ", "), len(on)-most, all))
		default:
			out = append(out, fmt.Sprintf("%s (on %s of %d nodes)", why, strings.Join(on, ", "), all))
		}
	}
	return strings.Join(out, "; ")
}
