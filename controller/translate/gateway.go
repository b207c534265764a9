// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// gateway is a Gateway of ours on its way to a status.
type gateway struct {
	name
	object *gwv1.Gateway
	// own are its listeners, listeners those and then the ones of its
	// ListenerSets, in the order in which they come first.
	own, listeners []*listener
	sets           []*listenerSet // those that it lets attach
	// class is why its class keeps it waiting: Accepted is Unknown then. One that
	// was served is kept: it goes on where it listens. A mistake in what all
	// Gateways of a class have in common must not end all of them.
	class verdict
	kept  bool
	// accepted and programmed are what is wrong with the Gateway itself.
	accepted, programmed verdict
	// notes are added to the message of Accepted.
	notes []string
	// client is the certificate for backends, nil for none, and refs the
	// ResolvedRefs condition where there is a reference to one.
	client    *certificate
	refs      []condition
	params    *parameters  // of its class, nil for none
	static    []netip.Addr // of spec.addresses
	wants     bool         // an address that it does not name
	had       []netip.Addr // at the last translation
	addresses []netip.Addr // to listen on; none: all of the node
	held      []netip.Addr // those of them that one node at a time has
	// unusable is why it is not served at all addresses that it asks for.
	unusable verdict
}

func (g *gateway) key() Key { return Key{"Gateway", g.namespace, g.name.name} }

func (g *gateway) String() string { return g.key().String() }

// served tells whether anything of it may be served.
func (g *gateway) served() bool {
	return (g.class.ok() || g.kept) && g.accepted.ok() && g.programmed.ok()
}

func (t *translator) readGateways() {
	for _, o := range byAge(t.in.Gateways) {
		g := &gateway{name: nameOf(o), object: o}
		className := string(o.Spec.GatewayClassName)
		k := t.classes[className]
		switch {
		case k == nil && className != t.DefaultClass && t.assume(Reference{g.key(), Key{Kind: "GatewayClass", Name: className}}):
			continue
		case k == nil && t.in.Unread[Key{Kind: "GatewayClass", Name: className}] != "":
			g.class = verdict{string(gwv1.GatewayReasonPending), t.in.absent(Key{Kind: "GatewayClass", Name: className}, "create it, or correct gatewayClassName")}
		case k == nil && t.alone():
			g.class = verdict{string(gwv1.GatewayReasonPending), fmt.Sprintf(
				"GatewayClass %q does not exist; write gatewayClassName: %s, or add GatewayClass %q with controllerName: %s",
				className, t.DefaultClass, className, t.ControllerName)}
		case k == nil || !k.ours:
			continue
		case !k.accepted.ok():
			g.class = verdict{string(gwv1.GatewayReasonPending), fmt.Sprintf(
				"GatewayClass %q is not accepted: %s", className, k.accepted.message)}
			if _, g.kept = t.previousAddresses[g.name.String()]; g.kept {
				g.class.message += "; meanwhile the Gateway is served at the addresses that it has"
			}
		default:
			g.params = k.params
		}
		g.readSpec()
		for i := range o.Spec.Listeners {
			g.own = append(g.own, t.readListener(g, nil, &o.Spec.Listeners[i]))
		}
		g.listeners = slices.Clip(g.own)
		t.gateways = append(t.gateways, g)
		t.gatewayIndex[g.name] = g
	}
}

func (g *gateway) readSpec() {
	spec := &g.object.Spec
	var accepted []verdict
	for _, a := range spec.Addresses {
		typ := value(a.Type, gwv1.IPAddressType)
		if typ != gwv1.IPAddressType {
			accepted = append(accepted, verdict{string(gwv1.GatewayReasonUnsupportedAddress), fmt.Sprintf(
				"address %q has type %s; only IPAddress is supported, write the IP address", a.Value, typ)})
			continue
		}
		if a.Value == "" {
			g.wants = true
			continue
		}
		ip, err := netip.ParseAddr(a.Value)
		if err != nil || ip.Zone() != "" {
			g.programmed = verdict{string(gwv1.GatewayReasonAddressNotUsable), fmt.Sprintf(
				"address %q is not an IP address", a.Value)}
			continue
		}
		if ip = ip.Unmap(); !slices.Contains(g.static, ip) {
			g.static = append(g.static, ip)
		}
	}
	g.wants = g.wants || len(spec.Addresses) == 0
	if i := spec.Infrastructure; i != nil && i.ParametersRef != nil {
		accepted = append(accepted, verdict{string(gwv1.GatewayReasonInvalidParameters), fmt.Sprintf(
			"infrastructure.parametersRef %s %q: parameters are those of the GatewayClass, whose parametersRef may be a GatewayConfig; remove it",
			i.ParametersRef.Kind, i.ParametersRef.Name)})
	}
	g.accepted = first(accepted)
	if a := spec.AllowedListeners; a != nil && a.Namespaces != nil && value(a.Namespaces.From, "") == gwv1.NamespacesFromSelector {
		if _, err := metav1.LabelSelectorAsSelector(a.Namespaces.Selector); err != nil {
			g.notes = append(g.notes, fmt.Sprintf("no ListenerSet attaches: spec.allowedListeners.namespaces.selector: %s", err))
		}
	}
	if spec.DefaultScope == gwv1.GatewayDefaultScopeAll {
		g.notes = append(g.notes, "spec.defaultScope is not honored: routes attach by parentRefs only")
	}
}

// acceptance is the Accepted condition. It is True while at least one listener
// is accepted.
func (g *gateway) acceptance() condition {
	const typ = string(gwv1.GatewayConditionAccepted)
	switch {
	case !g.class.ok():
		return condition{typ, "Unknown", g.class.reason, g.class.message}
	case !g.accepted.ok():
		return condition{typ, "False", g.accepted.reason, g.accepted.message}
	}
	var good, bad []string
	for _, l := range g.own {
		if l.acceptance().ok() {
			good = append(good, fmt.Sprintf("%q", l.spec.Name))
		} else {
			bad = append(bad, fmt.Sprintf("%q", l.spec.Name))
		}
	}
	const invalid = string(gwv1.GatewayReasonListenersNotValid)
	switch {
	case len(good) == 0:
		return condition{typ, "False", invalid, "no listener is accepted, see the conditions of " + strings.Join(bad, ", ")}
	case len(bad) > 0:
		return condition{typ, "True", invalid, g.note(fmt.Sprintf("listeners accepted: %s; not accepted, see their conditions: %s",
			strings.Join(good, ", "), strings.Join(bad, ", ")))}
	}
	return condition{typ, "True", string(gwv1.GatewayReasonAccepted), g.note("all listeners are accepted")}
}

func (g *gateway) note(message string) string {
	return strings.Join(append([]string{message}, g.notes...), "; ")
}

func (t *translator) gatewayStatuses(s snapshotState) []Status {
	var out []Status
	for _, g := range t.gateways {
		had := g.object.Status
		if s := t.stored[Key{"Gateway", g.namespace, g.name.name}]; s != nil && s.Gateway != nil {
			had = *s.Gateway
		}
		status := &gwv1.GatewayStatus{AttachedListenerSets: g.attachedSets()}
		var warnings []string
		for _, l := range g.own {
			status.Listeners = append(status.Listeners, t.listenerStatus(l, had.Listeners, s))
			warnings = append(warnings, l.warnings...)
		}
		insecure := g.insecureFallback()
		if insecure.typ != "" {
			warnings = append(warnings, insecure.message)
		}
		slices.Sort(warnings)
		accepted, programmed := g.acceptance(), t.gatewayProgrammed(g, had, s)
		if unmade := g.unmade(s); unmade != "" && accepted.status == metav1.ConditionTrue && programmed.message != unmade {
			accepted.message += "; " + unmade
		}
		switch {
		case !g.class.ok():
			status.Addresses = had.Addresses // the class may be mended
		case accepted.status == metav1.ConditionTrue && programmed.reason != string(gwv1.GatewayReasonAddressNotUsable),
			g.pooled(), g.balanced(): // a mistake does not give them away
			status.Addresses = t.statusAddresses(g)
		}
		want := append([]condition{accepted, programmed}, g.resolvedRefs()...)
		if insecure.typ != "" {
			want = append(want, insecure)
		}
		status.Conditions = t.merge(had.Conditions, g.object.Generation,
			[]string{"Accepted", "Programmed", "ResolvedRefs", string(gwv1.GatewayConditionInsecureFrontendValidationMode)}, want)
		out = append(out, Status{Kind: "Gateway", Namespace: g.namespace, Name: g.name.name,
			Generation: g.object.Generation, Gateway: status, Warnings: slices.Compact(warnings), Infrastructure: t.infrastructure(g)})
	}
	return out
}
