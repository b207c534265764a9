// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// maxParents is what the schema of a route's status allows, for all controllers
// together.
const maxParents = 32

// routeStatuses returns the statuses of those of the routes that we have something
// to say about: a parent of ours, or one that was ours and is to be taken out.
func (t *translator) routeStatuses(s snapshotState, of []*route) []Status {
	var out []Status
	for _, r := range of {
		had := *r.had
		if s := t.stored[keyOf(r.kind, r.object)]; s != nil && s.Route != nil {
			had = *s.Route
		}
		ours := func(p gwv1.RouteParentStatus) bool { return string(p.ControllerName) == t.ControllerName }
		orphan := t.alone() && len(r.common.ParentRefs) == 0
		if len(r.parents) == 0 && !orphan && !slices.ContainsFunc(had.Parents, ours) {
			continue
		}
		ofRefs := slices.Concat(r.warnings, s.empty(r))
		status := &gwv1.RouteStatus{Parents: []gwv1.RouteParentStatus{}}
		done := make([]bool, len(r.parents))
		for _, h := range had.Parents {
			if !ours(h) {
				status.Parents = append(status.Parents, h)
				continue
			}
			for i, p := range r.parents {
				if !done[i] && sameParent(p.ref, h.ParentRef) {
					done[i] = true
					status.Parents = append(status.Parents, t.parentStatus(r, p, ofRefs, h))
					break
				}
			}
		}
		warnings := slices.Clone(ofRefs)
		untold := 0
		for i, p := range r.parents {
			switch {
			case done[i]:
			case len(status.Parents) < maxParents:
				status.Parents = append(status.Parents, t.parentStatus(r, p, ofRefs, gwv1.RouteParentStatus{}))
			default:
				untold++
			}
		}
		if untold > 0 {
			warnings = append(warnings, fmt.Sprintf("the status has room for %d parents, which others fill: it does not tell of %d; "+
				"remove from it what is of controllers that are gone", maxParents, untold))
		}
		for _, p := range r.parents {
			if p.rejected.ok() {
				warnings = append(warnings, p.notes...)
			}
		}
		if orphan {
			warnings = append(warnings, "the route has no parentRefs and carries nothing; add the Gateway to its parentRefs")
		}
		out = append(out, Status{Kind: r.kind, Namespace: r.object.GetNamespace(), Name: r.object.GetName(),
			Generation: r.object.GetGeneration(), Route: status, Warnings: warnings})
	}
	return out
}

// empty is what nodes say of the route's backends that have no endpoint.
func (f Feedback) empty(r *route) (out []string) {
	for _, b := range r.resolved {
		for _, of := range f.Reports {
			if why := of.Empty[b]; why != "" && !slices.Contains(out, why+"; "+r.lost()) {
				out = append(out, why+"; "+r.lost())
			}
		}
	}
	return out
}

func sameParent(a, b gwv1.ParentReference) bool {
	return value(a.Group, gwv1.GroupName) == value(b.Group, gwv1.GroupName) && value(a.Kind, "Gateway") == value(b.Kind, "Gateway") &&
		reflect.DeepEqual(a.Namespace, b.Namespace) && a.Name == b.Name &&
		reflect.DeepEqual(a.SectionName, b.SectionName) && reflect.DeepEqual(a.Port, b.Port)
}

// parentStatus is what there is to say of a route at one parent. warnings are of
// its references.
func (t *translator) parentStatus(r *route, p *parent, warnings []string, had gwv1.RouteParentStatus) gwv1.RouteParentStatus {
	refs := first(r.refs)
	resolved := "all references are resolved"
	if len(warnings) > 0 {
		resolved = strings.Join(warnings, "; ")
	}
	want := []condition{
		p.rejected.is("Accepted", "Accepted", p.acceptedText()),
		refs.is("ResolvedRefs", "ResolvedRefs", resolved),
	}
	if p.rejected.ok() && !r.partially.ok() {
		want = append(want, condition{"PartiallyInvalid", "True", r.partially.reason, r.partially.message})
	}
	return gwv1.RouteParentStatus{ParentRef: p.ref, ControllerName: gwv1.GatewayController(t.ControllerName),
		Conditions: t.merge(had.Conditions, r.object.GetGeneration(), []string{"Accepted", "ResolvedRefs", "PartiallyInvalid"}, want)}
}

// acceptedText says where the route is attached, and where it is not.
func (p *parent) acceptedText() string {
	var names []string
	for _, a := range p.attached {
		names = append(names, fmt.Sprintf("%q", a.listener.spec.Name))
	}
	word := "listener"
	if len(names) > 1 {
		word = "listeners"
	}
	text := fmt.Sprintf("attached to %s %s", word, strings.Join(names, ", "))
	var skipped []string
	for _, r := range p.skipped {
		if !r.byHostname {
			skipped = append(skipped, fmt.Sprintf("listener %q %s", r.listener.spec.Name, r.why))
		}
	}
	if len(skipped) > 0 {
		text += "; not attached: " + strings.Join(skipped, ", ")
	}
	if len(p.notes) > 0 {
		text += "; " + strings.Join(p.notes, "; ")
	}
	return text
}
