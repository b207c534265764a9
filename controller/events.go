// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// teller makes Events of what changed in the status of Gateways, ListenerSets
// and routes: what turned bad, what is good again, and when a Gateway is served
// first. What was good from the beginning is no news.
type teller struct {
	recorder events.EventRecorder

	mu     sync.Mutex
	warned map[types.UID][]string // by object
	paces  map[types.UID]*rate.Limiter
}

func newTeller(r events.EventRecorder) *teller {
	return &teller{recorder: r, warned: map[types.UID][]string{}, paces: map[types.UID]*rate.Limiter{}}
}

// forget drops what is remembered of objects that are gone, once that is of more
// than there are.
func (t *teller) forget(objects map[translate.Key]client.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.warned) <= len(objects) && len(t.paces) <= len(objects) {
		return
	}
	present := make(map[types.UID]bool, len(objects))
	for _, o := range objects {
		present[o.GetUID()] = true
	}
	maps.DeleteFunc(t.warned, func(uid types.UID, _ []string) bool { return !present[uid] })
	maps.DeleteFunc(t.paces, func(uid types.UID, _ *rate.Limiter) bool { return !present[uid] })
}

// An object may have so many Events at once, and then one in five minutes, as
// client-go has it for Events of the core group (EventSourceObjectSpamFilter).
const eventBurst, eventPause = 25, 5 * time.Minute

// allows tells whether an object may have another Event.
func (t *teller) allows(uid types.UID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.paces[uid] == nil {
		t.paces[uid] = rate.NewLimiter(rate.Every(eventPause), eventBurst)
	}
	return t.paces[uid].Allow()
}

// eventSource is the reporting controller of Events.
const eventSource = ControllerName

// maxNote and maxAction are the longest that an Event has, in bytes
// (events.k8s.io/v1).
const maxNote, maxAction = 1024, 128

// tell compares two statuses of an object. warnings are told when they are new.
func (t *teller) tell(o client.Object, had, now any, warnings []string) {
	if news := t.news(o.GetUID(), warnings); len(news) > 0 {
		t.event(o, corev1.EventTypeWarning, "Warning", "Serve", strings.Join(news, "; "))
	}
	for _, c := range transitions(had, now) {
		kind := corev1.EventTypeNormal
		if c.bad {
			kind = corev1.EventTypeWarning
		}
		// Events of an object with the same reason and action become one, with
		// the note of the first. So the action tells the parts apart.
		action, note := c.Type, c.Message
		if c.of != "" {
			action, note = c.Type+" "+c.of, c.of+": "+note
		}
		t.event(o, kind, c.Reason, action, note)
	}
}

func (t *teller) event(o client.Object, kind, reason, action, note string) {
	if !t.allows(o.GetUID()) {
		return
	}
	t.recorder.Eventf(o, nil, kind, reason, shortened(action, maxAction), "%s", shortened(note, maxNote))
}

func shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most-len("…")], "") + "…"
}

// news returns the warnings that an object did not have before.
func (t *teller) news(uid types.UID, warnings []string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.warned[uid]
	if len(warnings) == 0 {
		delete(t.warned, uid)
		return nil
	}
	t.warned[uid] = warnings
	return slices.DeleteFunc(slices.Clone(warnings), func(w string) bool { return slices.Contains(before, w) })
}

// transition is a condition that turned bad, or good.
type transition struct {
	metav1.Condition
	of  string // the part of the object, "" for all of it
	bad bool
}

func transitions(had, now any) (out []transition) {
	switch now := now.(type) {
	case *gwv1.GatewayStatus:
		had := had.(*gwv1.GatewayStatus)
		before := map[gwv1.SectionName][]metav1.Condition{}
		for _, l := range had.Listeners {
			before[l.Name] = l.Conditions
		}
		out = turned("", had.Conditions, now.Conditions)
		for _, l := range now.Listeners {
			out = append(out, turned(fmt.Sprintf("listener %q", l.Name), before[l.Name], l.Conditions)...)
		}
		if first := programmed(now.Conditions); first != nil && programmed(had.Conditions) == nil && len(out) == 0 {
			out = append(out, transition{Condition: *first})
		}
	case *gwv1.ListenerSetStatus:
		out = turned("", had.(*gwv1.ListenerSetStatus).Conditions, now.Conditions)
	case *gwv1.RouteStatus:
		before := map[string][]metav1.Condition{}
		for _, p := range had.(*gwv1.RouteStatus).Parents {
			if p.ControllerName == ControllerName {
				before[parentText(p.ParentRef)] = p.Conditions
			}
		}
		for _, p := range now.Parents {
			if p.ControllerName == ControllerName {
				of := parentText(p.ParentRef)
				out = append(out, turned(of, before[of], p.Conditions)...)
			}
		}
	}
	return out
}

// turned returns the conditions that turned bad, are bad for another reason,
// or turned good again. What is not known yet is neither.
func turned(of string, had, now []metav1.Condition) (out []transition) {
	before := map[string]metav1.Condition{}
	for _, c := range had {
		before[c.Type] = c
	}
	for _, c := range now {
		was := before[c.Type]
		bad := c.Status == badStatus(c.Type)
		wasBad := was.Status == badStatus(c.Type)
		if bad && (!wasBad || was.Reason != c.Reason) || !bad && wasBad && c.Status != metav1.ConditionUnknown {
			out = append(out, transition{c, of, bad})
		}
	}
	return out
}

// badStatus is the status of a condition that wants a look.
func badStatus(typ string) metav1.ConditionStatus {
	switch typ {
	case string(gwv1.ListenerConditionConflicted), string(gwv1.ListenerConditionOverlappingTLSConfig), string(gwv1.RouteConditionPartiallyInvalid):
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

// programmed returns the condition Programmed when it is true.
func programmed(conditions []metav1.Condition) *metav1.Condition {
	for i := range conditions {
		if c := &conditions[i]; c.Type == string(gwv1.GatewayConditionProgrammed) && c.Status == metav1.ConditionTrue {
			return c
		}
	}
	return nil
}

// parentText names the parent of a route.
func parentText(r gwv1.ParentReference) string {
	text := string(r.Name)
	if r.Namespace != nil {
		text = string(*r.Namespace) + "/" + text
	}
	if r.Kind != nil {
		text = string(*r.Kind) + " " + text
	}
	if r.SectionName != nil {
		text += fmt.Sprintf(" listener %q", *r.SectionName)
	}
	if r.Port != nil {
		text += fmt.Sprintf(" port %d", *r.Port)
	}
	return text
}
