// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxAncestors is what the schema of a policy's status allows.
const maxAncestors = 16

// chooseAncestors finds the Gateways that a policy's status tells of: all that it
// concerns, or as many as there is room for. Those that it tells of already come
// first, so that a new Gateway changes nothing for the others, then those by
// namespace and name. The policy counts for the rest all the same, for without it
// they would send in the clear; they say so themselves.
func (t *translator) chooseAncestors() {
	silent, ancestors := map[*gateway][]string{}, t.ancestors()
	for _, p := range t.policyList {
		had, all := t.hadPolicy(p), ancestors[p]
		room := maxAncestors
		told := map[string]bool{}
		for _, h := range had.Ancestors {
			if string(h.ControllerName) != t.ControllerName {
				room--
			} else if h.AncestorRef.Namespace != nil {
				told[name{string(*h.AncestorRef.Namespace), string(h.AncestorRef.Name)}.String()] = true
			}
		}
		rank := func(g *gateway) int {
			if told[g.name.String()] {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(all, func(a, b *gateway) int { return rank(a) - rank(b) })
		room = min(max(room, 0), len(all))
		p.ancestors, p.untold = all[:room], len(all)-room
		slices.SortFunc(p.ancestors, compareGateways)
		for _, g := range all[room:] {
			silent[g] = append(silent[g], nameOf(p.object).String())
		}
	}
	for g, policies := range silent {
		g.notes = append(g.notes, fmt.Sprintf("BackendTLSPolicies that count for this Gateway and whose status has no room to tell of it: %s",
			strings.Join(policies, ", ")))
	}
}

// hadPolicy is the status of a policy so far.
func (t *translator) hadPolicy(p *policy) gwv1.PolicyStatus {
	if s := t.stored[p.key()]; s != nil && s.Policy != nil {
		return *s.Policy
	}
	return p.object.Status
}

// untoldText says of how many Gateways a policy's status does not tell, "" for
// none.
func (p *policy) untoldText() string {
	if p.untold == 0 {
		return ""
	}
	return fmt.Sprintf("the status has room for %d Gateways, those of other controllers among them: it does not tell of %d more "+
		"for which the policy counts, too; they say so in their condition Accepted", maxAncestors, p.untold)
}

// policyStatuses tells BackendTLSPolicies how they fare, for each Gateway whose
// routes they concern.
func (t *translator) policyStatuses() []Status {
	var out []Status
	for _, p := range t.policyList {
		o := p.object
		had := t.hadPolicy(p)
		status := &gwv1.PolicyStatus{Ancestors: []gwv1.PolicyAncestorStatus{}}
		ours := 0
		for _, h := range had.Ancestors {
			if string(h.ControllerName) != t.ControllerName {
				status.Ancestors = append(status.Ancestors, h)
			} else {
				ours++
			}
		}
		concerns := len(p.ancestors) + p.untold
		idle := t.alone() && !t.Partial && concerns == 0
		if concerns == 0 && ours == 0 && !idle {
			continue
		}
		for _, g := range p.ancestors {
			status.Ancestors = append(status.Ancestors, t.ancestorStatus(p, g, had))
		}
		s := Status{Kind: "BackendTLSPolicy", Namespace: o.Namespace, Name: o.Name, Generation: o.Generation, Policy: status, Warnings: p.warnings}
		if idle {
			why := "no route of a Gateway sends anything in the clear to its targets"
			if v := first(slices.Concat(p.invalid, p.accepted)); !v.ok() {
				why += "; " + v.message
			}
			s.Warnings = append(slices.Clone(s.Warnings), why)
		}
		if p.untold > 0 {
			s.Warnings = append(slices.Clone(s.Warnings), p.untoldText())
		}
		out = append(out, s)
	}
	return out
}

func (t *translator) ancestorStatus(p *policy, g *gateway, had gwv1.PolicyStatus) gwv1.PolicyAncestorStatus {
	group, kind, namespace := gwv1.Group(gwv1.GroupName), gwv1.Kind("Gateway"), gwv1.Namespace(g.namespace)
	a := gwv1.PolicyAncestorStatus{ControllerName: gwv1.GatewayController(t.ControllerName),
		AncestorRef: gwv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gwv1.ObjectName(g.name.name)}}
	for _, h := range had.Ancestors {
		if h.ControllerName == a.ControllerName && sameParent(h.AncestorRef, a.AncestorRef) {
			a.Conditions = h.Conditions
		}
	}
	resolved := "all references are resolved"
	if len(p.warnings) > 0 {
		resolved = strings.Join(p.warnings, "; ")
	}
	accepted := first(slices.Concat(p.invalid, p.accepted)).is("Accepted", string(gwv1.PolicyReasonAccepted), "the policy holds")
	if p.untold > 0 {
		accepted.message += "; " + p.untoldText()
	}
	a.Conditions = t.merge(a.Conditions, p.object.Generation, []string{"Accepted", "ResolvedRefs"}, []condition{
		accepted,
		first(p.refs).is("ResolvedRefs", string(gwv1.BackendTLSPolicyReasonResolvedRefs), resolved),
	})
	return a
}

// ancestors returns, by policy, the Gateways whose routes refer to a target of it
// and send it what it is about, by namespace and name.
func (t *translator) ancestors() map[*policy][]*gateway {
	out := map[*policy][]*gateway{}
	for _, r := range t.routes {
		if r.udp() {
			continue
		}
		var by []*gateway
		for _, parent := range r.parents {
			for _, a := range parent.attached {
				if !a.listener.passthrough && !slices.Contains(by, a.listener.gateway) {
					by = append(by, a.listener.gateway)
				}
			}
		}
		for _, n := range r.targets {
			for _, p := range t.policies[n] {
				for _, g := range by {
					if !slices.Contains(out[p], g) {
						out[p] = append(out[p], g)
					}
				}
			}
		}
	}
	for _, of := range out {
		slices.SortFunc(of, compareGateways)
	}
	return out
}

func compareGateways(a, b *gateway) int { return strings.Compare(a.name.String(), b.name.String()) }
