// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// listenerSet is a ListenerSet of a Gateway of ours on its way to a status.
type listenerSet struct {
	name
	object    *gwv1.ListenerSet
	gateway   *gateway // nil: there is none, which a folder is told
	listeners []*listener
	rejected  verdict // by the Gateway
}

func (s *listenerSet) key() Key { return Key{"ListenerSet", s.namespace, s.name.name} }

// readListenerSets adds the listeners of ListenerSets to the Gateways that let
// them attach, oldest ListenerSet first.
func (t *translator) readListenerSets() {
	for _, o := range byAge(t.in.ListenerSets) {
		s := &listenerSet{name: nameOf(o), object: o}
		ref := o.Spec.ParentRef
		kind := value(ref.Kind, "Gateway")
		at := name{string(value(ref.Namespace, gwv1.Namespace(o.Namespace))), string(ref.Name)}
		isGateway := value(ref.Group, gwv1.GroupName) == gwv1.GroupName && kind == "Gateway"
		s.gateway = t.gatewayIndex[at]
		switch {
		case isGateway && s.gateway != nil:
			s.rejected = t.refuseListenerSet(s.gateway, s)
		case !t.alone() || isGateway && t.hasGateway(at):
			continue // of another controller
		case isGateway && t.assume(Reference{s.key(), Key{"Gateway", at.namespace, at.name}}):
			continue
		case isGateway:
			s.rejected = verdict{string(gwv1.ListenerSetReasonParentNotAccepted), t.in.absent(Key{"Gateway", at.namespace, at.name}, "create it, or correct the name in parentRef")}
		default:
			s.rejected = verdict{string(gwv1.ListenerSetReasonInvalid), fmt.Sprintf(
				"a ListenerSet cannot attach to %s %s; use a Gateway", kind, at)}
		}
		t.setIndex[s.name] = s
		if !s.rejected.ok() {
			continue
		}
		for i := range o.Spec.Listeners {
			s.listeners = append(s.listeners, t.readListener(s.gateway, s, (*gwv1.Listener)(&o.Spec.Listeners[i])))
		}
		s.gateway.sets = append(s.gateway.sets, s)
		s.gateway.listeners = append(s.gateway.listeners, s.listeners...)
	}
}

func (t *translator) hasGateway(at name) bool {
	return slices.ContainsFunc(t.in.Gateways, func(o *gwv1.Gateway) bool { return nameOf(o) == at })
}

// refuseListenerSet says why a Gateway does not let a ListenerSet attach.
func (t *translator) refuseListenerSet(g *gateway, s *listenerSet) verdict {
	from, selector := gwv1.NamespacesFromNone, (*metav1.LabelSelector)(nil)
	if a := g.object.Spec.AllowedListeners; a != nil && a.Namespaces != nil {
		from, selector = value(a.Namespaces.From, from), a.Namespaces.Selector
	}
	var why string
	switch from {
	case gwv1.NamespacesFromAll:
		return verdict{}
	case gwv1.NamespacesFromSame:
		if s.namespace == g.namespace {
			return verdict{}
		}
		why = fmt.Sprintf("takes ListenerSets from its own namespace only; allow namespace %q in its allowedListeners.namespaces", s.namespace)
	case gwv1.NamespacesFromSelector:
		labels, err := metav1.LabelSelectorAsSelector(selector)
		switch {
		case err != nil:
			why = "has a selector in allowedListeners.namespaces that is not valid; mend it"
		case labels.Matches(t.namespaceLabels(s.namespace)):
			return verdict{}
		case t.namespaces[s.namespace] == nil && t.assume(Reference{s.key(), Key{"Namespace", "", s.namespace}}):
			return verdict{}
		default:
			why = fmt.Sprintf("takes ListenerSets from namespaces with labels %q only; label namespace %q so, or change the selector", labels, s.namespace)
		}
	default:
		why = "takes no ListenerSets; set its allowedListeners.namespaces.from to Same, All or Selector"
	}
	return verdict{string(gwv1.ListenerSetReasonNotAllowed), fmt.Sprintf("%s %s", g, why)}
}

// parentKey names the object that a parentRef of a route means.
func parentKey(r *route, ref gwv1.ParentReference) Key {
	return Key{string(value(ref.Kind, "Gateway")), string(value(ref.Namespace, gwv1.Namespace(r.object.GetNamespace()))), string(ref.Name)}
}

// parentOf returns the listeners of a parent of routes. missing says why there
// are none. ours is false when the parent is no business of ours.
func (t *translator) parentOf(from Key, group gwv1.Group, parent Key) (of []*listener, missing verdict, ours bool) {
	const reason = string(gwv1.RouteReasonNoMatchingParent)
	at := name{parent.Namespace, parent.Name}
	switch {
	case group != gwv1.GroupName || parent.Kind != "Gateway" && parent.Kind != "ListenerSet":
		return nil, verdict{reason, fmt.Sprintf("a route cannot attach to %s; use a Gateway or ListenerSet", parent)}, t.alone()
	case parent.Kind == "Gateway":
		if g := t.gatewayIndex[at]; g != nil {
			return g.own, verdict{}, true
		}
		ours = t.alone() && !t.hasGateway(at)
	default:
		if s := t.setIndex[at]; s != nil && !s.rejected.ok() {
			return nil, verdict{reason, fmt.Sprintf("%s is not attached to a Gateway: %s", parent, s.rejected.message)}, true
		} else if s != nil {
			return s.listeners, verdict{}, true
		}
		ours = t.alone() && !slices.ContainsFunc(t.in.ListenerSets, func(o *gwv1.ListenerSet) bool { return nameOf(o) == at })
	}
	if ours && t.assume(Reference{from, parent}) {
		ours = false
	}
	return nil, verdict{reason, t.in.absent(parent, "create it, or correct the name in parentRefs")}, ours
}

// attachedSets is how many ListenerSets are accepted, nil where none may attach.
func (g *gateway) attachedSets() *int32 {
	if g.object.Spec.AllowedListeners == nil {
		return nil
	}
	var n int32
	for _, s := range g.sets {
		if s.acceptance().status == metav1.ConditionTrue {
			n++
		}
	}
	return &n
}

// acceptance is the Accepted condition: True while at least one listener can be
// served.
func (s *listenerSet) acceptance() condition {
	const typ = string(gwv1.ListenerSetConditionAccepted)
	if !s.rejected.ok() {
		return s.rejected.is(typ, "", "")
	}
	if v := first([]verdict{s.gateway.class, s.gateway.accepted}); !v.ok() {
		return condition{typ, "False", string(gwv1.ListenerSetReasonParentNotAccepted), fmt.Sprintf("%s is not accepted", s.gateway)}
	}
	var good, bad []string
	for _, l := range s.listeners {
		if l.valid().ok() {
			good = append(good, fmt.Sprintf("%q", l.spec.Name))
		} else {
			bad = append(bad, fmt.Sprintf("%q", l.spec.Name))
		}
	}
	const invalid = string(gwv1.ListenerSetReasonListenersNotValid)
	switch {
	case len(good) == 0:
		return condition{typ, "False", invalid, "no listener is valid, see the conditions of " + strings.Join(bad, ", ")}
	case len(bad) > 0:
		return condition{typ, "True", invalid, fmt.Sprintf("listeners valid: %s; not valid, see their conditions: %s",
			strings.Join(good, ", "), strings.Join(bad, ", "))}
	}
	return condition{typ, "True", string(gwv1.ListenerSetReasonAccepted), "all listeners are valid"}
}

// programmed is the Programmed condition, for the listeners of the ListenerSet
// alone.
func (t *translator) setProgrammed(s *listenerSet, had []gwv1.ListenerStatus, state snapshotState) condition {
	const typ = string(gwv1.ListenerSetConditionProgrammed)
	accepted := s.acceptance()
	switch {
	case accepted.status != metav1.ConditionTrue:
		return condition{typ, "False", accepted.reason, "the ListenerSet is not accepted"}
	case !s.gateway.programmed.ok():
		return condition{typ, "False", "ParentNotProgrammed", fmt.Sprintf("%s is not programmed", s.gateway)}
	}
	c, _ := t.listenersProgrammed(s.listeners, had, state)
	return c
}

func (t *translator) listenerSetStatuses(state snapshotState) []Status {
	var out []Status
	for _, s := range t.setIndex {
		o := s.object
		had := o.Status
		if stored := t.stored[s.key()]; stored != nil && stored.ListenerSet != nil {
			had = *stored.ListenerSet
		}
		var hadListeners []gwv1.ListenerStatus
		for _, l := range had.Listeners {
			hadListeners = append(hadListeners, gwv1.ListenerStatus(l))
		}
		status := &gwv1.ListenerSetStatus{}
		var warnings []string
		for _, l := range s.listeners {
			status.Listeners = append(status.Listeners, gwv1.ListenerEntryStatus(t.listenerStatus(l, hadListeners, state)))
			warnings = append(warnings, l.warnings...)
		}
		slices.Sort(warnings)
		status.Conditions = t.merge(had.Conditions, o.Generation, []string{"Accepted", "Programmed"},
			[]condition{s.acceptance(), t.setProgrammed(s, hadListeners, state)})
		out = append(out, Status{Kind: "ListenerSet", Namespace: s.namespace, Name: s.name.name, Generation: o.Generation,
			ListenerSet: status, Warnings: slices.Compact(warnings)})
	}
	return out
}
