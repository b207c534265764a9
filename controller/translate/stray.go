// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// addStrays adds what is to tell about objects that no controller can take, for
// what they refer to does not exist. In a cluster their status is nobody's: they
// get a Status of warnings only.
func (t *translator) addStrays(all []Status) []Status {
	strays := t.strays()
	t.warnStrays(all, strays)
	for _, s := range all {
		delete(strays, s.Key())
	}
	for k, warnings := range strays {
		all = append(all, Status{Kind: k.Kind, Namespace: k.Namespace, Name: k.Name, Warnings: warnings})
	}
	return all
}

// warnStrays adds it to those that have a status.
func (t *translator) warnStrays(some []Status, strays map[Key][]string) {
	for i := range some {
		some[i].Warnings = append(slices.Clip(some[i].Warnings), strays[some[i].Key()]...)
	}
}

// strays is what there is to tell about such objects.
func (t *translator) strays() map[Key][]string {
	all := map[Key][]string{}
	warn := func(k Key, format string, args ...any) { all[k] = append(all[k], fmt.Sprintf(format, args...)) }
	if t.alone() {
		if len(t.gateways) > 0 {
			return all // those of other controllers are meant to be
		}
		for _, o := range t.in.Gateways {
			if k := t.classes[string(o.Spec.GatewayClassName)]; k != nil {
				warn(Key{"Gateway", o.Namespace, o.Name}, "nothing is served: GatewayClass %q is of controllerName %s; that of Sluice is %s",
					o.Spec.GatewayClassName, k.object.Spec.ControllerName, t.ControllerName)
			}
		}
		return all
	}
	known := map[Key]bool{}
	for _, o := range t.in.Gateways {
		k := Key{"Gateway", o.Namespace, o.Name}
		known[k] = true
		if class := string(o.Spec.GatewayClassName); t.classes[class] == nil {
			warn(k, "GatewayClass %q does not exist; %s", class, t.oursText())
		}
	}
	for _, o := range t.in.ListenerSets {
		known[Key{"ListenerSet", o.Namespace, o.Name}] = true
	}
	missing := func(from Key, ref gwv1.ParentReference) {
		to := Key{string(value(ref.Kind, "Gateway")), string(value(ref.Namespace, gwv1.Namespace(from.Namespace))), string(ref.Name)}
		if value(ref.Group, gwv1.GroupName) == gwv1.GroupName && (to.Kind == "Gateway" || to.Kind == "ListenerSet") && !known[to] {
			warn(from, "%s does not exist; %s", to, t.gatewaysText(from.Namespace))
		}
	}
	for _, o := range t.in.ListenerSets {
		p := o.Spec.ParentRef
		missing(Key{"ListenerSet", o.Namespace, o.Name}, gwv1.ParentReference{Group: p.Group, Kind: p.Kind, Namespace: p.Namespace, Name: p.Name})
	}
	for _, r := range t.routes {
		for _, ref := range r.common.ParentRefs {
			missing(keyOf(r.kind, r.object), ref)
		}
	}
	return all
}

// oursText says which classes a Gateway may name.
func (t *translator) oursText() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(t.classes)) {
		if t.classes[name].ours {
			all = append(all, name)
		}
	}
	if len(all) == 0 {
		return fmt.Sprintf("for Sluice make it with controllerName: %s", t.ControllerName)
	}
	return fmt.Sprintf("for Sluice write gatewayClassName: %s", strings.Join(all, " or "))
}

// gatewaysText says which Gateways of ours a namespace has.
func (t *translator) gatewaysText(namespace string) string {
	var all []string
	for _, g := range t.gateways {
		if g.namespace == namespace {
			all = append(all, g.name.name)
		}
	}
	if len(all) == 0 {
		return fmt.Sprintf("namespace %s has no Gateway of Sluice; make one, or name the namespace of another", namespace)
	}
	slices.Sort(all)
	return fmt.Sprintf("namespace %s has %s", namespace, strings.Join(all, ", "))
}
