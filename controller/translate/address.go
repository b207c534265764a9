// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

// assignAddresses settles where each Gateway listens.
//
// An address that a Gateway got from its pool is its own: it keeps it as long
// as its status has it, nobody gets it too, and nobody else may name it. What a
// Gateway names in spec.addresses is not given to others; Gateways that name
// the same address share it, as far as their listeners can be told apart.
func (t *translator) assignAddresses() {
	a := assignment{owner: map[netip.Addr]*gateway{}, named: map[netip.Addr]bool{}, sharers: map[netip.Addr]bool{}, node: map[netip.Addr]bool{}}
	for _, ip := range t.NodeAddresses {
		a.node[ip.Unmap()] = true
	}
	for _, g := range t.gateways {
		switch {
		case g.kept:
			t.keepServed(g, a)
		case !g.class.ok():
			continue
		}
		g.had = t.hadAddresses(g)
		for _, ip := range g.static {
			a.named[ip] = true
			if slices.Contains(g.had, ip) {
				a.sharers[ip] = true
			}
		}
	}
	for _, g := range t.gateways {
		a.keep(g)
	}
	for _, g := range t.gateways {
		a.assign(g)
		t.useStatic(g, a)
		slices.SortFunc(g.addresses, netip.Addr.Compare)
	}
}

// keepServed gives a Gateway whose class is not accepted the addresses that it is
// served at, and nobody else those that it got from a pool.
func (t *translator) keepServed(g *gateway, a assignment) {
	g.addresses = slices.Clone(t.previousAddresses[g.name.String()])
	for _, ip := range g.addresses {
		if !slices.Contains(t.Previous.Addresses, ip) {
			continue
		}
		g.held = append(g.held, ip)
		if !slices.Contains(g.static, ip) {
			a.owner[ip] = g
		}
	}
}

// hadAddresses are those that the Gateway has by its status, or by what is
// served. A status may be old, of a Gateway that had another class in between:
// what is served of others is not the Gateway's.
func (t *translator) hadAddresses(g *gateway) []netip.Addr {
	status := g.object.Status.Addresses
	if s := t.stored[Key{"Gateway", g.namespace, g.name.name}]; s != nil && s.Gateway != nil {
		status = s.Gateway.Addresses
	}
	var out []netip.Addr
	for _, a := range status {
		ip, err := netip.ParseAddr(a.Value)
		if err != nil {
			continue
		}
		ip = ip.Unmap()
		if users := t.previousUsers[ip]; len(users) == 0 || slices.Contains(users, g.name.String()) {
			out = append(out, ip)
		}
	}
	return append(out, t.previousAddresses[g.name.String()]...)
}

// assignment is who has which address.
type assignment struct {
	owner   map[netip.Addr]*gateway // got it from a pool
	named   map[netip.Addr]bool     // in some spec.addresses
	sharers map[netip.Addr]bool     // likewise, and served so
	node    map[netip.Addr]bool     // a node's
}

// pooled tells whether the Gateway gets an address from a pool.
func (g *gateway) pooled() bool {
	return g.class.ok() && g.wants && g.params != nil && g.params.mode == v1alpha1.AddressModePool
}

// balanced tells whether a load balancer gives the Gateway its address.
func (g *gateway) balanced() bool {
	return g.class.ok() && g.wants && len(g.static) == 0 && g.params != nil && g.params.mode == v1alpha1.AddressModeLoadBalancer
}

// everywhere tells whether the Gateway listens on all addresses of the nodes.
func (g *gateway) everywhere() bool { return len(g.static) == 0 && !g.pooled() }

func (a *assignment) give(g *gateway, ip netip.Addr) {
	a.owner[ip] = g
	g.addresses = append(g.addresses, ip)
	g.held = append(g.held, ip)
}

// has tells whether the Gateway got an address of a family.
func (a *assignment) has(g *gateway, bits int) bool {
	return slices.ContainsFunc(g.held, func(ip netip.Addr) bool { return ip.BitLen() == bits })
}

// keep gives the Gateway what it has already.
func (a *assignment) keep(g *gateway) {
	if !g.pooled() {
		return
	}
	for _, ip := range g.had {
		if g.params.pool.contains(ip) && a.owner[ip] == nil && !a.sharers[ip] && !a.node[ip] && !a.has(g, ip.BitLen()) {
			a.give(g, ip)
		}
	}
}

// assign gives the Gateway an address of each family of its pool. One that cannot
// have all of them is served at those that it has.
func (a *assignment) assign(g *gateway) {
	if !g.pooled() {
		return
	}
	for _, bits := range g.params.pool.families() {
		if a.has(g, bits) {
			continue
		}
		ip := g.params.pool.free(bits, func(ip netip.Addr) bool { return a.owner[ip] != nil || a.named[ip] || a.node[ip] })
		if ip.IsValid() {
			a.give(g, ip)
			continue
		}
		family := map[int]string{32: "IPv4", 128: "IPv6"}[bits]
		g.unusable = verdict{string(gwv1.GatewayReasonAddressNotAssigned), fmt.Sprintf(
			"every %s address of GatewayConfig %s is taken; add a range to its spec.addresses.pools, or delete a Gateway", family, g.params.name)}
	}
}

// useStatic adds the addresses that the Gateway names, as far as they may be
// used.
func (t *translator) useStatic(g *gateway, a assignment) {
	switch {
	case g.kept:
		return
	case !g.class.ok():
		g.addresses = slices.Clone(g.static)
		return
	}
	problems := []verdict{g.unusable}
	refuse := func(format string, args ...any) {
		problems = append(problems, verdict{string(gwv1.GatewayReasonAddressNotUsable), fmt.Sprintf(format, args...)})
	}
	for _, ip := range g.static {
		owner := a.owner[ip]
		inPool := g.params != nil && g.params.pool.contains(ip)
		switch {
		case owner == g:
			continue // it got what it names
		case owner != nil:
			refuse("address %s belongs to %s, which got it from its pool; name another one", ip, owner)
			continue
		case a.node[ip]:
		case inPool:
			g.held = append(g.held, ip)
		case t.ByNode && len(a.node) > 0:
			// Nodes listen on it all the same, for the case that it comes.
			pools := "has none"
			if g.params != nil && len(g.params.pool) > 0 {
				pools = "has " + g.params.pool.String()
			}
			refuse("address %s is neither a node's (%s) nor in the pools of GatewayClass %q, which %s; name one of those",
				ip, addressesText(t.NodeAddresses), g.object.Spec.GatewayClassName, pools)
		}
		g.addresses = append(g.addresses, ip)
	}
	if g.unusable = first(problems); !g.unusable.ok() && len(g.addresses) == 0 && g.programmed.ok() {
		g.programmed = g.unusable
	}
}

// addressesText names a few addresses.
func addressesText(all []netip.Addr) string {
	const most = 4
	var out []string
	for _, a := range slices.SortedFunc(slices.Values(all), netip.Addr.Compare) {
		out = append(out, a.String())
	}
	if len(out) > most {
		out = append(out[:most], "…")
	}
	return strings.Join(out, ", ")
}

// maxStatusAddresses is what the schema of Gateway allows.
const maxStatusAddresses = 16

// statusAddresses are the addresses by which clients reach the Gateway.
func (t *translator) statusAddresses(g *gateway) []gwv1.GatewayStatusAddress {
	if g.balanced() {
		return t.balancerAddresses(g)
	}
	addresses := g.addresses
	if g.everywhere() {
		addresses = slices.SortedFunc(slices.Values(t.NodeAddresses), netip.Addr.Compare)
	}
	var out []gwv1.GatewayStatusAddress
	for _, a := range addresses[:min(len(addresses), maxStatusAddresses)] {
		typ := gwv1.IPAddressType
		out = append(out, gwv1.GatewayStatusAddress{Type: &typ, Value: a.String()})
	}
	return out
}

// heldAddresses are the addresses of listeners in the snapshot that one node
// at a time has.
func (t *translator) heldAddresses(listening map[netip.Addr]bool) []netip.Addr {
	var out []netip.Addr
	for _, g := range t.gateways {
		for _, ip := range g.held {
			if g.served() && listening[ip] && !slices.Contains(out, ip) {
				out = append(out, ip)
			}
		}
	}
	return out
}
