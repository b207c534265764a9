// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// printStatus prints the status as one screen: what is served from top to
// bottom, then everything that is wrong, in whole sentences.
func printStatus(w io.Writer, v *statusView, now time.Time) {
	open := 0
	for _, l := range v.Listeners {
		open += l.Connections
	}
	state := "serving"
	switch {
	case v.Draining:
		state = "draining"
	case v.Snapshot == "":
		state = "starting"
	}
	fmt.Fprintf(w, "sluice %s, %s for %s, %d open connections\n", v.Version, state, age(now.Sub(v.Started)), open)
	printSplice(w, &v.Splice)

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer t.Flush()
	printGateways(t, v)
	printRoutes(t, v.Resources.Objects)
	if len(v.Certificates) > 0 {
		fmt.Fprint(t, "\nCERTIFICATE\tKEY\tNAMES\tEXPIRES\n")
		for _, c := range v.Certificates {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Name, c.KeyType, cmp.Or(shorten(c.DNSNames), c.Subject), expiry(c.NotAfter, now))
		}
	}
	printList(t, "WARNINGS", v.warnings())
	printList(t, "PROBLEMS", v.Resources.Problems)
}

func printSplice(w io.Writer, s *agent.SpliceStatus) {
	if !s.On {
		fmt.Fprintf(w, "splice off (%s): %s; connections are relayed\n", s.Reason, s.Message)
		return
	}
	var outcomes []string
	for _, o := range slices.Sorted(maps.Keys(s.Outcomes)) {
		if s.Outcomes[o] > 0 {
			outcomes = append(outcomes, fmt.Sprintf("%s %d", o, s.Outcomes[o]))
		}
	}
	fmt.Fprintf(w, "splice on, connections so far: %s; maps: %s\n", cmp.Or(strings.Join(outcomes, ", "), "none"), s.Pins)
}

// printGateways prints each Gateway with its listeners. What speaks of a
// listener is taken from both sides: the object's status, and the node.
func printGateways(t io.Writer, v *statusView) {
	nodes := map[string]agent.ListenerStatus{}
	for _, l := range v.Listeners {
		nodes[l.Name] = l
	}
	fmt.Fprint(t, "\nGATEWAY\tADDRESSES\tLISTENER\tPORT\tHOSTNAME\tROUTES\tOPEN\tCONDITIONS\n")
	for i := range v.Resources.Objects {
		o := &v.Resources.Objects[i]
		if o.Gateway == nil {
			continue
		}
		var addresses []string
		for _, a := range o.Gateway.Addresses {
			addresses = append(addresses, a.Value)
		}
		name := o.Namespace + "/" + o.Name
		fmt.Fprintf(t, "%s\t%s\t\t\t\t\t\t%s\n", name, cmp.Or(shorten(addresses), "-"), conditions(o.Gateway.Conditions))
		for _, l := range o.Gateway.Listeners {
			n := nodes[name+"/"+string(l.Name)]
			port := "-"
			if n.Port != 0 {
				port = fmt.Sprintf("%d/%s", n.Port, n.Protocol)
			}
			fmt.Fprintf(t, "\t\t%s\t%s\t%s\t%d\t%d\t%s\n", l.Name, port, cmp.Or(n.Hostname, "*"), l.AttachedRoutes, n.Connections, conditions(l.Conditions))
		}
	}
}

func printRoutes(t io.Writer, objects []translate.Status) {
	fmt.Fprint(t, "\nROUTE\tPARENT\tCONDITIONS\n")
	for _, o := range objects {
		if o.Route == nil {
			continue
		}
		name := o.Kind + " " + o.Namespace + "/" + o.Name
		if len(o.Route.Parents) == 0 {
			fmt.Fprintf(t, "%s\t-\t-\n", name)
		}
		for _, p := range o.Route.Parents {
			fmt.Fprintf(t, "%s\t%s\t%s\n", name, parent(&p.ParentRef), conditions(p.Conditions))
			name = ""
		}
	}
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

// conditions names those that hold, and shows those that do not with reason.
// Their messages are among the problems.
func conditions(in []metav1.Condition) string {
	var out []string
	for _, c := range in {
		if c.Status == metav1.ConditionTrue {
			out = append(out, c.Type)
		} else if c.Reason != string(gwv1.ListenerReasonNoConflicts) {
			out = append(out, fmt.Sprintf("%s=%s(%s)", c.Type, c.Status, c.Reason))
		}
	}
	return strings.Join(out, " ")
}

// warnings lists what is served and yet wants a look.
func (v *statusView) warnings() []string {
	var out []string
	for i := range v.Resources.Objects {
		o := &v.Resources.Objects[i]
		for _, w := range o.Warnings {
			out = append(out, o.Key().String()+": "+w)
		}
	}
	return out
}

func printList(w io.Writer, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", title)
	for _, l := range lines {
		fmt.Fprintf(w, "- %s\n", l)
	}
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
