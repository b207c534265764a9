// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxAncestors is what the schema of a policy's status allows.
const maxAncestors = 16

// policyStatuses tells BackendTLSPolicies how they fare, for each Gateway whose
// routes they concern.
func (t *translator) policyStatuses() []Status {
	var out []Status
	for _, p := range t.policyList {
		o := p.object
		had := o.Status
		if s := t.stored[Key{"BackendTLSPolicy", o.Namespace, o.Name}]; s != nil && s.Policy != nil {
			had = *s.Policy
		}
		status := &gwv1.PolicyStatus{Ancestors: []gwv1.PolicyAncestorStatus{}}
		ours := 0
		for _, h := range had.Ancestors {
			if string(h.ControllerName) != t.ControllerName {
				status.Ancestors = append(status.Ancestors, h)
			} else {
				ours++
			}
		}
		ancestors := t.ancestors(p)
		idle := t.alone() && !t.Partial && len(ancestors) == 0
		if len(ancestors) == 0 && ours == 0 && !idle {
			continue
		}
		for _, g := range ancestors[:min(len(ancestors), maxAncestors-len(status.Ancestors))] {
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
	a.Conditions = t.merge(a.Conditions, p.object.Generation, []string{"Accepted", "ResolvedRefs"}, []condition{
		first(slices.Concat(p.invalid, p.accepted)).is("Accepted", string(gwv1.PolicyReasonAccepted), "the policy holds"),
		first(p.refs).is("ResolvedRefs", string(gwv1.BackendTLSPolicyReasonResolvedRefs), resolved),
	})
	return a
}

// ancestors returns the Gateways whose routes refer to a target of the policy
// and send it what it is about, by namespace and name.
func (t *translator) ancestors(p *policy) []*gateway {
	var out []*gateway
	for _, r := range t.routes {
		if !slices.ContainsFunc(r.targets, func(n name) bool { return slices.Contains(t.policies[n], p) }) {
			continue
		}
		for _, parent := range r.parents {
			for _, a := range parent.attached {
				if !a.listener.passthrough && !r.udp() && !slices.Contains(out, a.listener.gateway) {
					out = append(out, a.listener.gateway)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b *gateway) int { return strings.Compare(a.name.String(), b.name.String()) })
	return out
}
