// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Problem is a condition that is not as it should be.
type Problem struct {
	Object Key
	// Listener and Parent say which part of the object, nil Parent and "" for
	// the whole. Of a policy Parent is the ancestor.
	Listener string
	Parent   *gwv1.ParentReference
	// Condition is nil where Message says it all: nothing has it.
	Condition *metav1.Condition
	Message   string
}

// String says what is wrong, with object, condition, reason and message
// ("TLSRoute a/b: parent Gateway c: not Accepted (NoMatchingParent): …").
func (p Problem) String() string {
	at := p.Object.String()
	switch {
	case p.Listener != "":
		at += fmt.Sprintf(": listener %q", p.Listener)
	case p.Parent != nil && p.Object.Kind == "BackendTLSPolicy":
		at += ": ancestor " + parentText(*p.Parent)
	case p.Parent != nil:
		at += ": parent " + parentText(*p.Parent)
	}
	c := p.Condition
	if c == nil {
		return at + ": " + p.Message
	}
	state := c.Type
	switch c.Status {
	case metav1.ConditionFalse:
		state = "not " + c.Type
	case metav1.ConditionUnknown:
		state = c.Type + " unknown"
	}
	return fmt.Sprintf("%s: %s (%s): %s", at, state, c.Reason, p.Message)
}

// Problems is [Status.Wrong] in words.
func (s *Status) Problems() []string {
	var out []string
	for _, p := range s.Wrong() {
		out = append(out, p.String())
	}
	return out
}

// Wrong lists what is wrong; nothing means that everything asked for is
// served. What follows from another problem of the same part is left out.
func (s *Status) Wrong() []Problem {
	p := problems{object: s.Key()}
	switch {
	case s.GatewayClass != nil:
		p.conditions(Problem{}, s.GatewayClass.Conditions)
	case s.Gateway != nil:
		p.gateway(s.Gateway)
	case s.ListenerSet != nil:
		p.listenerSet(s.ListenerSet)
	case s.Route != nil:
		for _, r := range s.Route.Parents {
			if s.controller == "" || r.ControllerName == s.controller {
				p.conditions(Problem{Parent: &r.ParentRef}, r.Conditions)
			}
		}
		p.idle(len(s.Route.Parents), s.Warnings)
	case s.Policy != nil:
		for _, a := range s.Policy.Ancestors {
			if s.controller == "" || a.ControllerName == s.controller {
				p.conditions(Problem{Parent: &a.AncestorRef}, a.Conditions)
			}
		}
		p.idle(len(s.Policy.Ancestors), s.Warnings)
	default:
		p.idle(0, s.Warnings)
	}
	return p.list
}

type problems struct {
	object Key
	list   []Problem
	// consequence says that what is not programmed follows from what is listed.
	consequence bool
}

// idle lists the warnings of an object that is part of nothing.
func (p *problems) idle(parents int, warnings []string) {
	if parents == 0 && len(warnings) > 0 {
		p.list = append(p.list, Problem{Object: p.object, Message: strings.Join(warnings, "; ")})
	}
}

// gateway lists what is wrong with the Gateway itself, then with its listeners.
// That it is not valid because of listeners, they tell.
func (p *problems) gateway(s *gwv1.GatewayStatus) {
	for i := range s.Conditions {
		c := &s.Conditions[i]
		own := c.Type == "Accepted" && c.Reason != string(gwv1.GatewayReasonListenersNotValid) ||
			c.Type == "Programmed" && (c.Reason == string(gwv1.GatewayReasonAddressNotUsable) || c.Reason == string(gwv1.GatewayReasonAddressNotAssigned))
		if own && c.Status != metav1.ConditionTrue {
			p.add(Problem{}, c)
			p.consequence = true
		}
		if c.Type == "ResolvedRefs" && c.Status != metav1.ConditionTrue && c.Reason != string(gwv1.GatewayReasonListenersNotResolved) {
			p.add(Problem{}, c)
		}
	}
	for _, l := range s.Listeners {
		p.conditions(Problem{Listener: string(l.Name)}, l.Conditions)
	}
}

// listenerSet is gateway for a ListenerSet.
func (p *problems) listenerSet(s *gwv1.ListenerSetStatus) {
	for i := range s.Conditions {
		c := &s.Conditions[i]
		if c.Type == "Accepted" && c.Status != metav1.ConditionTrue && c.Reason != string(gwv1.ListenerSetReasonListenersNotValid) {
			p.add(Problem{}, c)
			p.consequence = true
		}
	}
	for _, l := range s.Listeners {
		p.conditions(Problem{Listener: string(l.Name)}, l.Conditions)
	}
}

func (p *problems) conditions(part Problem, in []metav1.Condition) {
	before := len(p.list)
	for i := range in {
		c := &in[i]
		switch c.Type {
		case "Accepted", "ResolvedRefs", "SupportedVersion":
			if c.Status != metav1.ConditionTrue {
				p.add(part, c)
			}
		case "PartiallyInvalid":
			if c.Status == metav1.ConditionTrue {
				p.add(part, c)
			}
		}
	}
	if len(p.list) > before || p.consequence {
		return
	}
	for i := range in {
		if c := &in[i]; c.Type == "Programmed" && c.Status != metav1.ConditionTrue {
			p.add(part, c)
		}
	}
}

func (p *problems) add(part Problem, c *metav1.Condition) {
	part.Object, part.Condition, part.Message = p.object, c, c.Message
	p.list = append(p.list, part)
}

func parentText(r gwv1.ParentReference) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", value(r.Kind, "Gateway"), r.Name)
	if r.SectionName != nil {
		fmt.Fprintf(&b, " listener %q", *r.SectionName)
	}
	if r.Port != nil {
		fmt.Fprintf(&b, " port %d", *r.Port)
	}
	return b.String()
}
