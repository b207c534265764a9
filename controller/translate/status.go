// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Status is what to tell the author of an object: the whole status of it, with
// everything in it that others wrote. One of the pointers is set, or none where
// the status is not ours and there are warnings only.
type Status struct {
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	Generation int64  `json:"generation,omitempty"`

	GatewayClass *gwv1.GatewayClassStatus `json:"gatewayClass,omitempty"`
	Gateway      *gwv1.GatewayStatus      `json:"gateway,omitempty"`
	ListenerSet  *gwv1.ListenerSetStatus  `json:"listenerSet,omitempty"`
	Route        *gwv1.RouteStatus        `json:"route,omitempty"`
	Policy       *gwv1.PolicyStatus       `json:"policy,omitempty"`

	// Infrastructure is what to make for a Gateway in a cluster, nil for nothing.
	Infrastructure *Infrastructure `json:"infrastructure,omitempty"`

	// Warnings are things that are served and yet want a look: a certificate
	// that expired, a Service without endpoints.
	Warnings []string `json:"warnings,omitempty"`

	controller gwv1.GatewayController
}

// Key returns the name of the object.
func (s *Status) Key() Key { return Key{s.Kind, s.Namespace, s.Name} }

// told brings what there is to tell in order.
func (t *translator) told(all []Status) []Status {
	for i := range all {
		all[i].controller = gwv1.GatewayController(t.ControllerName)
	}
	slices.SortFunc(all, compareStatus)
	return all
}

func compareStatus(a, b Status) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// maxMessage is the longest message that a condition may have, in bytes
// (k8s.io/apimachinery metav1.Condition).
const maxMessage = 32768

// condition is a condition to be set; time and generation come with setting.
type condition struct {
	typ     string
	status  metav1.ConditionStatus
	reason  string
	message string
}

// verdict is why something is not as it should be; the zero verdict is fine.
type verdict struct{ reason, message string }

func (v verdict) ok() bool { return v.reason == "" }

// is turns a verdict into a condition: False with the reason, else True with
// reason and message for the good case.
func (v verdict) is(typ, reason, message string) condition {
	if v.ok() {
		return condition{typ, metav1.ConditionTrue, reason, message}
	}
	return condition{typ, metav1.ConditionFalse, v.reason, v.message}
}

// first returns the first verdict that is not ok, with the messages of all.
func first(vs []verdict) verdict {
	var out verdict
	var messages []string
	for _, v := range vs {
		if v.ok() {
			continue
		}
		out.reason = cmp.Or(out.reason, v.reason)
		if !slices.Contains(messages, v.message) {
			messages = append(messages, v.message)
		}
	}
	out.message = strings.Join(messages, "; ")
	return out
}

// merge brings conditions of ours up to date among those of others: order and
// foreign conditions stay, the time of a transition stays while the status does
// not change, ours that are no longer wanted go, and a condition that speaks of
// a newer generation than we know is left alone.
func (t *translator) merge(have []metav1.Condition, generation int64, ours []string, want []condition) []metav1.Condition {
	var out []metav1.Condition
	done := map[string]bool{}
	for _, h := range have {
		i := slices.IndexFunc(want, func(c condition) bool { return c.typ == h.Type })
		switch {
		case h.ObservedGeneration > generation:
		case i >= 0:
			c := t.condition(want[i], generation)
			if c.Status == h.Status {
				c.LastTransitionTime = h.LastTransitionTime
			}
			h = c
		case slices.Contains(ours, h.Type):
			continue
		}
		done[h.Type] = true
		out = append(out, h)
	}
	for _, c := range want {
		if !done[c.typ] {
			out = append(out, t.condition(c, generation))
		}
	}
	return out
}

func (t *translator) condition(c condition, generation int64) metav1.Condition {
	if len(c.message) > maxMessage {
		c.message = c.message[:maxMessage-len("…")] + "…"
	}
	return metav1.Condition{Type: c.typ, Status: c.status, Reason: c.reason, Message: strings.ToValidUTF8(c.message, ""),
		ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(t.Now)}
}
