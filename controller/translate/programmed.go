// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// snapshotState is what is known of the serving of a snapshot.
type snapshotState struct {
	Feedback
	hash  string
	parts map[string]Part // by Gateway
}

// current tells whether a node serves what the Gateway is now.
func (s *snapshotState) current(r config.Report, g *gateway) bool {
	if r.Parts == nil {
		return r.Hash == s.hash
	}
	return r.Parts[g.name.String()] == s.parts[g.name.String()].Hash
}

// snapshot gathers what is served: the listeners that can be, what they refer
// to, and the names that are kept for the others.
func (t *translator) snapshot() *config.Snapshot {
	s := &config.Snapshot{}
	routes := map[string]*route{}
	certificates := map[string]config.Certificate{}
	backends := map[string]bool{}
	for _, g := range t.gateways {
		for _, l := range g.listeners {
			if !l.served() {
				continue
			}
			out := l.snapshotListener()
			if t.showsCertificate(l) {
				out.BackendCertificate = g.client.config.Name
				certificates[out.BackendCertificate] = g.client.config
			}
			s.Listeners = append(s.Listeners, out)
			if l.tls != nil && l.tls.ClientValidation != nil {
				t.addAuthorities(s, l.tls.ClientValidation.Authorities)
			}
			for _, c := range l.certificates {
				certificates[c.config.Name] = c.config
			}
			for _, r := range l.l4 {
				routes[r.String()] = r
			}
			for _, rules := range l.http {
				for _, r := range rules {
					for _, b := range r.Backends {
						backends[b.Backend] = true
					}
				}
			}
		}
	}
	s.Listeners = append(s.Listeners, t.refusing()...)
	for _, n := range slices.Sorted(maps.Keys(routes)) {
		s.Routes = append(s.Routes, config.Route{Name: n, Backends: routes[n].backends})
		for _, b := range routes[n].backends {
			backends[b.Backend] = true
		}
	}
	for n := range backends {
		if n != "" {
			s.Backends = append(s.Backends, t.backends[n].config)
			if policy := t.backends[n].config.TLS; policy != nil {
				t.addAuthorities(s, policy.Authorities)
			}
		}
	}
	for _, c := range certificates {
		s.Certificates = append(s.Certificates, c)
	}
	listening := map[netip.Addr]bool{}
	for i := range s.Listeners {
		for _, a := range s.Listeners[i].Addresses {
			listening[a] = true
		}
	}
	s.Addresses = t.heldAddresses(listening)
	s.Sort()
	return s
}

// addAuthorities adds those that are not there yet.
func (t *translator) addAuthorities(s *config.Snapshot, names []string) {
	for _, n := range names {
		if slices.ContainsFunc(s.Authorities, func(a config.Authority) bool { return a.Name == n }) {
			continue
		}
		namespace, configMap, _ := strings.Cut(n, "/")
		s.Authorities = append(s.Authorities, t.authorities[name{namespace, configMap}].config)
	}
}

// nameAt is a host name on a port.
type nameAt struct {
	place
	hostname string
}

// refusing are the listeners that are not served and whose names would fall to
// the wildcard of another one (Gateway API, "Listener Isolation").
func (t *translator) refusing() []config.Listener {
	var served, waiting []*listener
	for _, g := range t.gateways {
		for _, l := range g.listeners {
			switch {
			case l.served():
				served = append(served, l)
			case g.served() && l.keepsName():
				waiting = append(waiting, l)
			}
		}
	}
	var out []config.Listener
	taken := newTaken()
	byName := map[nameAt][]*listener{}
	for _, l := range served {
		taken.add(l, l.places()...)
		n := nameAt{l.place(), l.hostname}
		byName[n] = append(byName[n], l)
	}
	for _, l := range waiting {
		if taken.inTheWay(l) == nil && slices.ContainsFunc(wildcards(l.hostname), func(hostname string) bool {
			return slices.ContainsFunc(byName[nameAt{l.place(), hostname}], l.fallsUnder)
		}) {
			taken.add(l, l.places()...)
			out = append(out, l.refusing())
		}
	}
	return out
}

// listenerProgrammed is the Programmed condition of a listener: invalid, or
// what nodes say of it. had are its conditions so far.
func (t *translator) listenerProgrammed(l *listener, had []metav1.Condition, s snapshotState) condition {
	const typ = string(gwv1.ListenerConditionProgrammed)
	if !l.gateway.served() {
		return condition{typ, "False", string(gwv1.ListenerReasonInvalid), "the Gateway is not served, see its conditions"}
	}
	if v := l.valid(); !v.ok() {
		return v.is(typ, "", "")
	}
	var served, waiting int
	var failed []string
	for _, r := range s.Reports {
		message, known := r.Listeners[l.key()]
		switch {
		case known && message != "":
			if !slices.Contains(failed, message) {
				failed = append(failed, message)
			}
		case known && (s.current(r, l.gateway) || unchanged(had, l.generation())):
			served++
		default:
			waiting++
		}
	}
	slices.Sort(failed)
	switch {
	case len(failed) > 0:
		return condition{typ, "False", string(gwv1.ListenerReasonInvalid), strings.Join(failed, "; ")}
	case waiting > 0 || served == 0:
		return condition{typ, "Unknown", string(gwv1.ListenerReasonPending), "waiting for nodes to serve it"}
	}
	return condition{typ, "True", string(gwv1.ListenerReasonProgrammed), "the listener is served"}
}

// unchanged tells that a listener, or a Gateway, was served in this generation.
// A node that is about to apply a newer snapshot goes on serving it.
func unchanged(had []metav1.Condition, generation int64) bool {
	return generation > 0 && slices.ContainsFunc(had, func(c metav1.Condition) bool {
		return c.Type == string(gwv1.ListenerConditionProgrammed) && c.Status == metav1.ConditionTrue && c.ObservedGeneration == generation
	})
}

// notAvailable is what the kernel says of an address that the node does not
// have (EADDRNOTAVAIL).
const notAvailable = "cannot assign requested address"

// gatewayProgrammed sums up the listeners: True when one is served and none is
// waited for.
func (t *translator) gatewayProgrammed(g *gateway, had gwv1.GatewayStatus, s snapshotState) condition {
	const typ = string(gwv1.GatewayConditionProgrammed)
	accepted := g.acceptance()
	switch {
	case accepted.status == metav1.ConditionUnknown && !g.kept:
		return condition{typ, "Unknown", string(gwv1.GatewayReasonPending), "the Gateway is not accepted yet"}
	case accepted.status == metav1.ConditionFalse:
		return condition{typ, "False", string(gwv1.GatewayReasonInvalid), "the Gateway is not accepted"}
	case !g.programmed.ok():
		return g.programmed.is(typ, "", "")
	case !g.unusable.ok():
		return g.unusable.is(typ, "", "")
	case g.balanced() && t.foreignService(g):
		return condition{typ, "False", string(gwv1.GatewayReasonAddressNotAssigned), g.foreignText()}
	case g.balanced() && len(t.balancerAddresses(g)) == 0 && g.unmade(s) != "":
		return condition{typ, "False", string(gwv1.GatewayReasonAddressNotAssigned), g.unmade(s)}
	case g.balanced() && len(t.balancerAddresses(g)) == 0:
		return condition{typ, "False", string(gwv1.GatewayReasonAddressNotAssigned), fmt.Sprintf(
			"Service %s/%s has no address yet: the load balancer of the cluster gives it one; kubectl describe service says what it waits for", g.namespace, g.serviceName())}
	case len(g.addresses) == 0 && !g.balanced() && t.noAddress(s):
		return condition{typ, "False", string(gwv1.GatewayReasonAddressNotAssigned), "no node has an address to give; set spec.addresses"}
	}
	if c := g.holding(had, s); c != nil {
		return *c
	}
	c, unusable := t.listenersProgrammed(g.own, had.Listeners, s)
	if unusable != "" && len(g.addresses) > 0 {
		return condition{typ, "False", string(gwv1.GatewayReasonAddressNotUsable), fmt.Sprintf(
			"spec.addresses %s: %s; use an address of the node", addressText(g), unusable)}
	}
	return c
}

// holding is the Programmed condition of a Gateway that has not got all of the
// addresses that one node at a time holds; nil when it has them. An address
// that moves from node to node is on its way for a moment, which is no news.
func (g *gateway) holding(had gwv1.GatewayStatus, s snapshotState) *condition {
	const typ = string(gwv1.GatewayConditionProgrammed)
	told := false
	states := map[netip.Addr]string{}
	for _, r := range s.Reports {
		told = told || r.Addresses != nil
		for a, why := range r.Addresses {
			if before, known := states[a]; !known || before != "" {
				states[a] = why
			}
		}
	}
	if !told {
		return nil
	}
	var failed, waiting []string
	for _, a := range g.held {
		switch why, known := states[a]; {
		case !known:
			waiting = append(waiting, a.String())
		case why != "":
			failed = append(failed, why)
		}
	}
	switch {
	case len(failed) > 0:
		return &condition{typ, "False", string(gwv1.GatewayReasonAddressNotUsable), "no node can hold its address: " + strings.Join(failed, "; ")}
	case len(waiting) > 0 && !unchanged(had.Conditions, g.object.Generation):
		return &condition{typ, "Unknown", string(gwv1.GatewayReasonPending), "waiting for a node to hold " + strings.Join(waiting, ", ")}
	}
	return nil
}

// listenersProgrammed sums up listeners of one object. unusable is what a node
// says of an address that it does not have.
func (t *translator) listenersProgrammed(of []*listener, had []gwv1.ListenerStatus, s snapshotState) (_ condition, unusable string) {
	const typ = string(gwv1.GatewayConditionProgrammed)
	var served, waiting, failed []string
	for _, l := range of {
		text := fmt.Sprintf("%q", l.spec.Name)
		switch c := t.listenerProgrammed(l, l.conditionsOf(had), s); c.status {
		case metav1.ConditionTrue:
			served = append(served, text)
		case metav1.ConditionUnknown:
			waiting = append(waiting, text)
		default:
			failed = append(failed, text)
			if strings.Contains(c.message, notAvailable) {
				unusable = c.message
			}
		}
	}
	switch {
	case len(waiting) > 0:
		return condition{typ, "Unknown", string(gwv1.GatewayReasonPending), "waiting for nodes to serve " + strings.Join(waiting, ", ")}, unusable
	case len(served) == 0:
		return condition{typ, "False", string(gwv1.GatewayReasonInvalid), "no listener is served, see the conditions of " + strings.Join(failed, ", ")}, unusable
	case len(failed) > 0:
		return condition{typ, "True", string(gwv1.GatewayReasonProgrammed), fmt.Sprintf(
			someServed+"%s; not served, see their conditions: %s", strings.Join(served, ", "), strings.Join(failed, ", "))}, unusable
	}
	return condition{typ, "True", string(gwv1.GatewayReasonProgrammed), allServed}, unusable
}

// noAddress tells that nodes serve and yet none has an address.
func (t *translator) noAddress(s snapshotState) bool {
	return len(s.Reports) > 0 && len(t.NodeAddresses) == 0
}
