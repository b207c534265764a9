// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller"
)

// TestWritersThatMeddleAreEndured has others write the same objects and
// statuses all the time. What is theirs stays, what is ours comes back, and
// nobody writes for ever.
func TestWritersThatMeddleAreEndured(t *testing.T) {
	w := newWorld(t)
	ws := &writes{}
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.start("a", ws)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")

	theirs := metav1.Condition{Type: "example.com/Looked", Status: metav1.ConditionTrue, Reason: "Looked", LastTransitionTime: metav1.NewTime(time.Unix(1e9, 0))}
	port := gwv1.PortNumber(9)
	parent := gwv1.RouteParentStatus{ParentRef: gwv1.ParentReference{Name: "mesh", Port: &port}, ControllerName: "example.com/mesh", Conditions: []metav1.Condition{theirs}}
	ignore := func(err error) {
		if err != nil && !apierrors.IsConflict(err) {
			t.Error(err)
		}
	}
	for i := range 200 {
		g, r := get(w, "gw", &gwv1.Gateway{}), get(w, "web", &gwv1.TLSRoute{})
		g.Status.Listeners = nil
		theirs.Message = fmt.Sprint(i)
		meta.SetStatusCondition(&g.Status.Conditions, theirs)
		meta.SetStatusCondition(&g.Status.Conditions, metav1.Condition{Type: "Programmed", Status: metav1.ConditionFalse, Reason: "Mine"})
		ignore(root.Status().Update(t.Context(), g))
		r.Status.Parents = append(slices.DeleteFunc(r.Status.Parents, func(p gwv1.RouteParentStatus) bool { return i%2 == 0 || p.ControllerName != parent.ControllerName }), parent)[:1]
		ignore(root.Status().Update(t.Context(), r))
		g = get(w, "gw", &gwv1.Gateway{})
		g.Spec.Listeners[1].Port = gwv1.PortNumber(2000 + i)
		ignore(root.Update(t.Context(), g))
	}
	w.edit(3000)
	w.until("everything to be right again", func() string {
		g, r := get(w, "gw", &gwv1.Gateway{}), get(w, "web", &gwv1.TLSRoute{})
		switch {
		case len(g.Status.Listeners) != 2:
			return "listeners are missing"
		case meta.FindStatusCondition(g.Status.Conditions, theirs.Type) == nil:
			return "a condition of another controller is gone"
		case len(r.Status.Parents) != 2:
			return fmt.Sprintf("the route has parents %v", r.Status.Parents)
		case r.Status.Parents[0].ControllerName != parent.ControllerName && r.Status.Parents[1].ControllerName != parent.ControllerName:
			return "the parent of another controller is gone"
		}
		for _, p := range r.Status.Parents {
			if p.ControllerName != parent.ControllerName {
				if lack := condition(p.Conditions, r.Generation, "Accepted", metav1.ConditionTrue, "Accepted"); lack != "" {
					return lack
				}
			}
		}
		return condition(g.Status.Conditions, g.Generation, "Programmed", metav1.ConditionTrue, "Programmed")
	})
	// What waits for its turn is still to come; then all is quiet.
	w.until("the controller to have written all", func() string {
		written := len(ws.all())
		time.Sleep(3 * time.Second)
		if all := ws.all(); len(all) > written {
			return fmt.Sprint(all[written:])
		}
		return ""
	})
	// No other than ours are seen, whatever happened in between.
	g := get(w, "gw", &gwv1.Gateway{})
	for _, c := range g.Status.Conditions {
		if c.ObservedGeneration > g.Generation || c.Type != theirs.Type && c.ObservedGeneration != g.Generation {
			t.Errorf("condition %+v in generation %d", c, g.Generation)
		}
	}
}

// TestEventsTellOfChangesAndAreFew lets a certificate come and go many times.
func TestEventsTellOfChangesAndAreFew(t *testing.T) {
	w := newWorld(t)
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")
	good := get(w, "shop", &corev1.Secret{})
	for range 20 {
		w.putSecret("shop", map[string][]byte{"tls.crt": {'-'}, "tls.key": {'-'}})
		w.untilResolved(metav1.ConditionFalse, string(gwv1.ListenerReasonInvalidCertificateRef))
		w.putSecret("shop", good.Data)
		w.untilResolved(metav1.ConditionTrue, "ResolvedRefs")
	}
	w.until("the Events", func() string {
		reasons, n := w.events(t.Context())
		for _, want := range []string{"Programmed", "InvalidCertificateRef", "ResolvedRefs"} {
			if !slices.Contains(reasons, want) {
				return fmt.Sprintf("no Event %s among %q", want, reasons)
			}
		}
		if n > 25 {
			t.Fatalf("%d Events for one Gateway and its routes: %q", n, reasons)
		}
		return ""
	})
}

// TestAnExpiredCertificateHasAnEvent: it is served, and no condition turns bad.
func TestAnExpiredCertificateHasAnEvent(t *testing.T) {
	w := newWorld(t)
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.start("a", nil)
	n := w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")
	ended := time.Now().Add(-time.Hour)
	chain := w.keyPairUntil(ended, "shop", "shop.example")
	want := fmt.Sprintf("Secret %s/shop: the certificate expired on %s; renew it", w.ns, ended.UTC().Format(time.RFC3339))
	w.until("the Event", func() string {
		list := &eventsv1.EventList{}
		w.must(root.List(t.Context(), list, client.InNamespace(w.ns)))
		var notes []string
		for _, e := range list.Items {
			if e.Regarding.Kind == "Gateway" && e.Regarding.Name == "gw" && e.Type == corev1.EventTypeWarning && strings.Contains(e.Note, want) {
				return ""
			}
			notes = append(notes, e.Note)
		}
		return fmt.Sprintf("no %q among %q", want, notes)
	})
	w.untilResolved(metav1.ConditionTrue, "ResolvedRefs")
	w.until("the certificate, which is served", func() string {
		if n.chain() != string(chain) {
			return "another one is"
		}
		return ""
	})
}

// untilResolved waits for the listener tls to resolve its references, or not.
func (w *world) untilResolved(status metav1.ConditionStatus, reason string) {
	w.Helper()
	w.until("ResolvedRefs of listener tls", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		for _, l := range g.Status.Listeners {
			if l.Name == "tls" {
				return condition(l.Conditions, g.Generation, "ResolvedRefs", status, reason)
			}
		}
		return "there is none"
	})
}

// events are the reasons of the controller's Events in the world, and how many there are.
func (w *world) events(ctx context.Context) (reasons []string, n int) {
	w.Helper()
	list := &eventsv1.EventList{}
	w.must(root.List(ctx, list, client.InNamespace(w.ns)))
	for _, e := range list.Items {
		if e.ReportingController == controller.ControllerName { // the API server has some of its own
			reasons = append(reasons, e.Reason)
		}
	}
	slices.Sort(reasons)
	return slices.Compact(slices.Clone(reasons)), len(reasons)
}
