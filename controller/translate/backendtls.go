// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// backendTLS refuses a backend that must be spoken to with TLS, which this
// version does not do: sending plain text there would be worse than nothing.
// Passthrough carries the client's TLS and is not concerned.
func (t *translator) backendTLS(r *route, service name, port *corev1.ServicePort) verdict {
	for _, p := range t.policies[service] {
		concerned := slices.ContainsFunc(p.Spec.TargetRefs, func(ref gwv1.LocalPolicyTargetReferenceWithSectionName) bool {
			return ref.Group == "" && ref.Kind == "Service" && string(ref.Name) == service.name &&
				(ref.SectionName == nil || string(*ref.SectionName) == port.Name)
		})
		if concerned && !r.passthroughOnly() {
			return verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
				"BackendTLSPolicy %q wants TLS to Service %s, which this version does not do; "+
					"delete the policy to send plain text, or use a listener with tls.mode Passthrough", p.Name, service)}
		}
	}
	return verdict{}
}

// passthroughOnly tells whether the route carries nothing but TLS of clients.
func (r *route) passthroughOnly() bool {
	for _, p := range r.parents {
		for _, a := range p.attached {
			if !a.listener.passthrough {
				return false
			}
		}
	}
	return true
}

// policyStatuses tells BackendTLSPolicies that they are not honored, for each
// Gateway whose routes they concern.
func (t *translator) policyStatuses() []Status {
	var out []Status
	for _, p := range t.in.BackendTLSPolicies {
		had := p.Status
		if s := t.stored[Key{"BackendTLSPolicy", p.Namespace, p.Name}]; s != nil && s.Policy != nil {
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
		v := verdict{string(gwv1.PolicyReasonInvalid),
			"TLS to backends is not supported by this version; connections that need it are reset rather than sent in plain text"}
		ancestors := t.ancestors(p)
		if len(ancestors) == 0 && ours == 0 {
			continue
		}
		for _, g := range ancestors {
			group, kind, namespace := gwv1.Group(gwv1.GroupName), gwv1.Kind("Gateway"), gwv1.Namespace(g.namespace)
			a := gwv1.PolicyAncestorStatus{ControllerName: gwv1.GatewayController(t.ControllerName),
				AncestorRef: gwv1.ParentReference{Group: &group, Kind: &kind, Namespace: &namespace, Name: gwv1.ObjectName(g.name.name)}}
			for _, h := range had.Ancestors {
				if h.ControllerName == a.ControllerName && sameParent(h.AncestorRef, a.AncestorRef) {
					a.Conditions = h.Conditions
				}
			}
			a.Conditions = t.merge(a.Conditions, p.Generation, []string{"Accepted"}, []condition{v.is("Accepted", "", "")})
			status.Ancestors = append(status.Ancestors, a)
		}
		out = append(out, Status{Kind: "BackendTLSPolicy", Namespace: p.Namespace, Name: p.Name, Generation: p.Generation, Policy: status})
	}
	return out
}

// ancestors returns the Gateways whose routes refer to a target of the policy.
func (t *translator) ancestors(p *gwv1.BackendTLSPolicy) []*gateway {
	var out []*gateway
	for _, r := range t.routes {
		if !slices.ContainsFunc(r.targets, func(n name) bool { return slices.Contains(t.policies[n], p) }) {
			continue
		}
		for _, parent := range r.parents {
			for _, a := range parent.attached {
				if !slices.Contains(out, a.listener.gateway) {
					out = append(out, a.listener.gateway)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b *gateway) int { return strings.Compare(a.name.String(), b.name.String()) })
	return out
}
