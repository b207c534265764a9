// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// screen prints a status from top to bottom: what is served, then everything
// that is wrong, in whole sentences.
type screen struct {
	w     io.Writer
	now   time.Time
	width int // of the terminal, 0 for none: long lines are left to grep
}

func (s *screen) print(v *statusView) {
	open := 0
	for _, l := range v.Listeners {
		open += l.Connections
	}
	s.line("", "sluice %s, %s for %s, %d open connections", v.Version, v.state(), age(s.now.Sub(v.Started)), open)
	s.splice(&v.Splice)
	if len(v.Resources.Objects) > 0 {
		s.gateways(v)
		s.routes(v.Resources.Objects)
	} else {
		s.listeners(v.Listeners)
	}
	if len(v.Certificates) > 0 {
		t := s.table("CERTIFICATE", "KEY", "NAMES", "EXPIRES")
		for _, c := range v.Certificates {
			t.row(certificateName(&c), c.KeyType, cmp.Or(shorten(c.DNSNames), c.Subject), expiry(c.NotAfter, s.now))
		}
		t.print()
	}
	s.list("WARNINGS", v.warnings())
	s.list("PROBLEMS", v.Resources.Problems)
}

func (v *statusView) state() string {
	switch {
	case v.Draining:
		return "draining"
	case v.Snapshot == "":
		return "starting"
	}
	return "serving"
}

func (s *screen) splice(v *agent.SpliceStatus) {
	if !v.On {
		s.line("", "splice off (%s): %s; connections are relayed", v.Reason, v.Message)
		return
	}
	var outcomes []string
	for _, o := range slices.Sorted(maps.Keys(v.Outcomes)) {
		if v.Outcomes[o] > 0 {
			outcomes = append(outcomes, fmt.Sprintf("%s %d", o, v.Outcomes[o]))
		}
	}
	s.line("", "splice on, connections so far: %s; maps: %s", cmp.Or(strings.Join(outcomes, ", "), "none"), v.Pins)
}

// gateways prints each Gateway and each ListenerSet with its listeners. What is
// said of a listener comes from all sides: what was asked for, the object's
// status, the node.
func (s *screen) gateways(v *statusView) {
	asked := map[string]listenerSpec{}
	for _, l := range v.Resources.Listeners {
		asked[ofObject(l.Name)] = l
	}
	open := map[string]int{}
	for _, l := range v.Listeners {
		open[ofObject(l.Name)] = l.Connections
	}
	t := s.table("  LISTENER", "PORT", "HOSTNAME", "ROUTES", "OPEN", "STATE")
	t.headings[0] = "GATEWAY\n"
	row := func(key string, l gwv1.ListenerStatus) {
		key += "/" + string(l.Name)
		t.row("  "+string(l.Name), asked[key].port(), asked[key].hostname(), fmt.Sprint(l.AttachedRoutes), fmt.Sprint(open[key]), listenerState(l.Conditions))
	}
	for i := range v.Resources.Objects {
		o := &v.Resources.Objects[i]
		switch name := o.Namespace + "/" + o.Name; {
		case o.Gateway != nil:
			var addresses []string
			for _, a := range o.Gateway.Addresses {
				addresses = append(addresses, a.Value)
			}
			t.heading(fmt.Sprintf("%s, %s: %s", name, cmp.Or(shorten(addresses), "no address"), gatewayState(o.Gateway)))
			for _, l := range o.Gateway.Listeners {
				row(name, l)
			}
		case o.ListenerSet != nil:
			t.heading(fmt.Sprintf("ListenerSet %s: %s", name, programmed(o.ListenerSet.Conditions)))
			for _, l := range o.ListenerSet.Listeners {
				row("ListenerSet "+name, gwv1.ListenerStatus(l))
			}
		}
	}
	t.print()
}

// ofObject names a listener of the snapshot by the object that it is written
// in, which of a ListenerSet's leaves out the Gateway.
func ofObject(listener string) string {
	if parts := strings.SplitN(listener, "/", 3); len(parts) == 3 && strings.Contains(parts[2], "/") {
		return "ListenerSet " + parts[2]
	}
	return listener
}

// listeners prints those of a node whose objects are an API server's.
func (s *screen) listeners(all []agent.ListenerStatus) {
	t := s.table("LISTENER", "PORT", "HOSTNAME", "OPEN", "STATE")
	for _, l := range all {
		state := "served"
		if l.Problem != "" {
			state = "not served: " + l.Problem
		}
		a := listenerSpec{Port: int32(l.Port), Protocol: string(l.Protocol), Hostname: l.Hostname}
		t.row(l.Name, a.port(), a.hostname(), fmt.Sprint(l.Connections), state)
	}
	t.print()
}

func (s *screen) routes(objects []translate.Status) {
	t := s.table("ROUTE", "PARENT", "STATE")
	for _, o := range objects {
		if o.Route == nil {
			continue
		}
		name := o.Kind + " " + o.Namespace + "/" + o.Name
		if len(o.Route.Parents) == 0 {
			t.row(name, "-", "not accepted")
		}
		for _, p := range o.Route.Parents {
			t.row(name, parent(&p.ParentRef), routeState(p.Conditions))
			name = ""
		}
	}
	t.print()
}

// gatewayState, listenerState and routeState sum up the conditions, which
// sluice status -o yaml shows whole. Their messages are among the problems.
func gatewayState(g *gwv1.GatewayStatus) string {
	state := programmed(g.Conditions)
	if state == "served" && slices.ContainsFunc(g.Listeners, func(l gwv1.ListenerStatus) bool { return programmed(l.Conditions) != "served" }) {
		return "served in part"
	}
	return state
}

func listenerState(in []metav1.Condition) string {
	if state := programmed(in); state != "served" {
		return state
	}
	return "served" + unresolved(in)
}

func routeState(in []metav1.Condition) string {
	if !meta.IsStatusConditionTrue(in, string(gwv1.RouteConditionAccepted)) {
		return "not accepted"
	}
	state := "accepted"
	if meta.IsStatusConditionTrue(in, string(gwv1.RouteConditionPartiallyInvalid)) {
		state += " in part"
	}
	return state + unresolved(in)
}

func programmed(in []metav1.Condition) string {
	switch c := meta.FindStatusCondition(in, string(gwv1.GatewayConditionProgrammed)); {
	case c == nil || c.Status == metav1.ConditionUnknown:
		return "waiting"
	case c.Status == metav1.ConditionTrue:
		return "served"
	}
	return "not served"
}

func unresolved(in []metav1.Condition) string {
	if meta.IsStatusConditionFalse(in, string(gwv1.ListenerConditionResolvedRefs)) {
		return ", not ResolvedRefs"
	}
	return ""
}

func parent(r *gwv1.ParentReference) string {
	s := string(r.Name)
	if r.Namespace != nil {
		s = string(*r.Namespace) + "/" + s
	}
	if r.SectionName != nil {
		s += "/" + string(*r.SectionName)
	}
	if r.Port != nil {
		s += fmt.Sprintf(":%d", *r.Port)
	}
	return s
}

// warnings lists what is served and yet wants a look.
func (v *statusView) warnings() []string {
	var out []string
	for i := range v.Resources.Objects {
		o := &v.Resources.Objects[i]
		for _, w := range o.Warnings {
			if line := o.Key().String() + ": " + w; !slices.Contains(v.Resources.Problems, line) {
				out = append(out, line)
			}
		}
	}
	return out
}

// certificateName says what a certificate is for where that is not the usual.
func certificateName(c *agent.CertificateStatus) string {
	if slices.Equal(c.Uses, []string{agent.UseServer}) {
		return c.Name
	}
	return fmt.Sprintf("%s (%s)", c.Name, strings.Join(c.Uses, ", "))
}

// shorten joins names and leaves out all but the first three.
func shorten(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ","), len(names)-3)
	}
	return strings.Join(names, ",")
}

func expiry(at, now time.Time) string {
	switch left := at.Sub(now); {
	case at.IsZero():
		return "-"
	case left < 0:
		return fmt.Sprintf("%s, expired %s ago", at.Format(time.DateOnly), age(-left))
	default:
		return fmt.Sprintf("%s, in %s", at.Format(time.DateOnly), age(left))
	}
}

// age prints a duration in its largest unit.
func age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
