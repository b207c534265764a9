// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// settleConflicts finds listeners that cannot be told apart. Within a Gateway
// nobody wins; between Gateways the older one does, even while its listener
// cannot be served: a mistake does not give a name away.
func (t *translator) settleConflicts() {
	taken := newTaken()
	for _, g := range t.gateways {
		g.findConflicts()
		if !g.served() {
			continue
		}
		var mine []*listener
		for _, l := range g.listeners {
			if !l.keepsName() {
				continue
			}
			if o := taken.inTheWay(l); o != nil {
				if l.accepted.ok() {
					l.accepted = verdict{string(gwv1.ListenerReasonPortUnavailable), clash(o, l)}
				}
				continue
			}
			mine = append(mine, l)
		}
		for _, l := range mine {
			taken.add(l, l.places()...)
		}
	}
}

// findConflicts marks the listeners that are not distinct. Those of the Gateway
// come first, then those of its ListenerSets, oldest first.
func (g *gateway) findConflicts() {
	taken := newTaken()
	findConflicts(g.own, taken)
	for _, set := range g.sets {
		findConflicts(set.listeners, taken)
	}
}

// findConflicts marks the listeners of one object that lose against one that
// is taken, then those of the rest that are not distinct from each other, of
// which nobody wins, and which are taken then. Listeners with an unsupported
// protocol use no port of ours and take no part.
func findConflicts(of []*listener, taken *taken) {
	var rest []*listener
	for _, l := range of {
		if l.unsupported() {
			continue
		}
		if l.loses(taken); !l.lost {
			rest = append(rest, l)
		}
	}
	for _, l := range rest {
		var protocols, hostnames []string
		for _, o := range rest {
			switch {
			case o == l || !samePort(o, l):
			case !sharePort(o, l):
				protocols = append(protocols, fmt.Sprintf("%q (%s)", o.spec.Name, o.spec.Protocol))
			case o.hostname == l.hostname:
				hostnames = append(hostnames, fmt.Sprintf("%q", o.spec.Name))
			}
		}
		switch {
		case len(protocols) > 0:
			l.conflict = verdict{string(gwv1.ListenerReasonProtocolConflict), fmt.Sprintf(
				"port %d with protocol %s is also used by listener %s, and nothing tells them apart; give one of them another port",
				l.spec.Port, l.spec.Protocol, strings.Join(protocols, ", "))}
		case len(hostnames) > 0:
			l.conflict = verdict{string(gwv1.ListenerReasonHostnameConflict), fmt.Sprintf(
				"port %d with %s is also used by listener %s; give one of them another hostname or port",
				l.spec.Port, hostnameText(l.hostname), strings.Join(hostnames, ", "))}
		}
	}
	for _, l := range rest {
		taken.add(l, l.place())
	}
}

// loses marks a listener of a ListenerSet that is not distinct from one that
// comes first. Nothing is told of other ListenerSets but that they are there.
func (l *listener) loses(taken *taken) {
	other, same := taken.unlike(l.place(), l), taken.namesake(l.place(), l)
	o := cmp.Or(other, same)
	if o == nil {
		return
	}
	by := fmt.Sprintf("%s, whose listeners come before those of its ListenerSets", o.gateway)
	if o.set != nil {
		by = "another ListenerSet of the Gateway, " + comesFirst
	}
	l.lost = true
	if other != nil {
		l.conflict = verdict{string(gwv1.ListenerEntryReasonProtocolConflict), fmt.Sprintf(
			"port %d is taken with another protocol than %s by %s; use another port", l.spec.Port, l.spec.Protocol, by)}
		return
	}
	l.conflict = verdict{string(gwv1.ListenerEntryReasonHostnameConflict), fmt.Sprintf(
		"port %d with %s is taken by %s; use another hostname or port", l.spec.Port, hostnameText(l.hostname), by)}
}

// samePort tells whether two listeners have the same number in the same
// transport: a port of UDP is another one than that of TCP.
func samePort(a, b *listener) bool { return a.place() == b.place() }

// sharePort tells whether host names can tell two listeners on one port apart.
func sharePort(a, b *listener) bool { return a.sharing() == b.sharing() && a.sharing() != alone }

// comesFirst is the order in which conflicts are settled.
const comesFirst = "which comes first (the older one, else by namespace and name)"

// clash says why l cannot be served beside o, which is of an older Gateway; ""
// when it can.
func clash(o, l *listener) string {
	oAll, lAll := len(o.gateway.addresses) == 0, len(l.gateway.addresses) == 0
	apart := ", or spec.addresses"
	if o.gateway.balanced() && l.gateway.balanced() {
		apart = ": behind their load balancers Gateways share the ports of the nodes"
	}
	switch {
	case !meet(o, l):
		return ""
	case !sharePort(o, l):
		return fmt.Sprintf("port %d is taken by %s with protocol %s, %s; use another port%s",
			l.spec.Port, o, o.spec.Protocol, comesFirst, apart)
	case o.hostname == l.hostname:
		return fmt.Sprintf("port %d with %s is taken by %s, %s; use another hostname or port%s",
			l.spec.Port, hostnameText(l.hostname), o, comesFirst, apart)
	case oAll != lAll:
		// A connection to one of the addresses would be seen by one socket only.
		return fmt.Sprintf("port %d on %s is taken by %s, which listens on %s, %s; give both Gateways spec.addresses, or neither",
			l.spec.Port, addressText(l.gateway), o, addressText(o.gateway), comesFirst)
	}
	return ""
}

// meet tells whether two listeners have a port in common.
func meet(a, b *listener) bool {
	return samePort(a, b) && (len(a.gateway.addresses) == 0 || len(b.gateway.addresses) == 0 ||
		slices.ContainsFunc(a.gateway.addresses, func(ip netip.Addr) bool { return slices.Contains(b.gateway.addresses, ip) }))
}

// fallsUnder tells whether connections for l would go to o if l were not there.
func (l *listener) fallsUnder(o *listener) bool {
	under, ok := intersect(o.hostname, l.hostname)
	return ok && under == l.hostname && meet(o, l) && sharePort(o, l)
}

func addressText(g *gateway) string {
	if len(g.addresses) == 0 {
		return "all addresses"
	}
	var all []string
	for _, a := range g.addresses {
		all = append(all, a.String())
	}
	return strings.Join(all, ", ")
}

func hostnameText(h string) string {
	if h == "" {
		return "no hostname"
	}
	return fmt.Sprintf("hostname %q", h)
}

// findOverlaps marks listeners on one port whose TLS settings hold for common
// names. A client that reuses a connection for another name (HTTP/2) may then
// meet the settings of the other listener.
func (t *translator) findOverlaps() {
	var all []*listener
	for _, g := range t.gateways {
		for _, l := range g.listeners {
			if g.served() && l.encrypted() && l.acceptance().ok() {
				all = append(all, l)
			}
		}
	}
	near := neighbors(all)
	for i, l := range all {
		var hostnames, certificates []string
		for _, j := range near[i] {
			o := all[j]
			text, known := l.toldOf(o)
			if overlap(o.hostname, l.hostname) {
				if known {
					text += fmt.Sprintf(" (%s)", hostnameText(o.hostname))
				}
				hostnames = append(hostnames, text)
			}
			if n := commonName(o.certificates, l.certificates); n != "" {
				certificates = append(certificates, fmt.Sprintf("%s (%s)", text, n))
			}
		}
		switch {
		case len(certificates) > 0:
			l.overlap = verdict{string(gwv1.ListenerReasonOverlappingCertificates),
				"a certificate is valid for a name of " + strings.Join(certificates, ", ") +
					" too; clients may reuse a connection for the other one's names"}
		case len(hostnames) > 0:
			l.overlap = verdict{string(gwv1.ListenerReasonOverlappingHostnames),
				"names overlap with those of " + strings.Join(hostnames, ", ") + "; the most specific hostname takes a connection"}
		}
	}
}

// neighbors returns, for each listener, the others on the same addresses and
// port whose names may overlap with its own, by number and in order. Every pair
// that does is among them: of two names that overlap one is the other, or a
// wildcard above it.
func neighbors(all []*listener) [][]int {
	type place struct {
		addresses string
		port      gwv1.PortNumber
		name      string
	}
	at := map[place][]int{}
	names := make([][]place, len(all))
	for i, l := range all {
		p := place{addressText(l.gateway), l.spec.Port, l.hostname}
		names[i] = append(names[i], p)
		for _, c := range l.certificates {
			for _, n := range c.names {
				p.name = strings.ToLower(n)
				names[i] = append(names[i], p)
			}
		}
		for _, p := range names[i] {
			at[p] = append(at[p], i)
		}
	}
	found := make([]map[int]bool, len(all))
	for i := range all {
		found[i] = map[int]bool{}
	}
	for i, own := range names {
		for _, p := range own {
			for _, above := range wildcards(p.name) {
				p.name = above
				for _, j := range at[p] {
					if j != i {
						found[i][j], found[j][i] = true, true
					}
				}
			}
		}
	}
	out := make([][]int, len(all))
	for i := range found {
		out[i] = slices.Sorted(maps.Keys(found[i]))
	}
	return out
}

// wildcards are a name itself and those that stand for it: "a.b.c" is under
// "*.b.c", "*.c" and "", which is every name.
func wildcards(name string) []string {
	out := []string{name}
	for _, rest, more := strings.Cut(name, "."); more; _, rest, more = strings.Cut(rest, ".") {
		if w := "*." + rest; w != name {
			out = append(out, w)
		}
	}
	if name != "" {
		out = append(out, "")
	}
	return out
}

// toldOf is how a listener's message speaks of another listener. Of those in
// ListenerSets of other namespaces a ListenerSet learns no names.
func (l *listener) toldOf(o *listener) (text string, known bool) {
	switch {
	case o.parent() == l.parent():
		return fmt.Sprintf("listener %q", o.spec.Name), true
	case l.set != nil && o.set != nil && l.set.namespace != o.set.namespace:
		return "a listener of another ListenerSet", false
	}
	return o.String(), true
}

// overlap tells whether a name can fall under both host names.
func overlap(a, b string) bool {
	_, ok := intersect(a, b)
	return ok
}

// intersect returns the host names that fall under both a and b, which is the
// more specific of the two, or false when there is none.
func intersect(a, b string) (string, bool) {
	if config.CompareHostnames(a, b) > 0 {
		a, b = b, a
	}
	// a is the more specific one.
	switch {
	case b == "" || a == b:
		return a, true
	case strings.HasPrefix(a, "*."):
		return a, strings.HasSuffix(a[1:], b[1:]) && strings.HasPrefix(b, "*.")
	}
	return a, config.MatchHostname(b, a)
}

// commonName returns a name that certificates of both are valid for.
func commonName(a, b []*certificate) string {
	for _, ca := range a {
		for _, n := range ca.names {
			for _, cb := range b {
				for _, m := range cb.names {
					if common, ok := intersectNames(n, m); ok {
						return common
					}
				}
			}
		}
	}
	return ""
}

// intersectNames is intersect with the wildcard of certificates, which stands
// for one label (RFC 9525).
func intersectNames(a, b string) (string, bool) {
	a, b = strings.ToLower(a), strings.ToLower(b)
	switch {
	case a == b:
		return a, a != ""
	case strings.HasPrefix(b, "*."):
		_, parent, _ := strings.Cut(a, ".")
		return a, parent == b[2:]
	case strings.HasPrefix(a, "*."):
		_, parent, _ := strings.Cut(b, ".")
		return b, parent == a[2:]
	}
	return "", false
}
