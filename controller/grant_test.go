// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
)

// backends is how many backends of a route have endpoints to look for, in what
// is published.
func (w *world) backends(gateway string) int {
	w.Helper()
	s := w.part(gateway)
	if s == nil {
		return -1
	}
	part, err := publication.Decode(s)
	w.must(err)
	n := 0
	for _, b := range part.Backends {
		if b.Service != nil {
			n++
		}
	}
	return n
}

// TestAReferenceGrantHoldsWhileItIsThere adds and removes one many times.
func TestAReferenceGrantHoldsWhileItIsThere(t *testing.T) {
	w := newWorld(t)
	other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "other-"}}
	w.must(root.Create(t.Context(), other))
	w.must(root.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: other.Name, Name: "db"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 5432}}}}))
	theirs, port := gwv1.Namespace(other.Name), gwv1.PortNumber(5432)
	w.apply(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {namespace: NS, name: gw},
  spec: {gatewayClassName: CLASS, listeners: [{name: tcp, port: 5432, protocol: TCP}]}}`)
	w.must(root.Create(t.Context(), &gwv1.TCPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "db"}, Spec: gwv1.TCPRouteSpec{
		CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "gw"}}},
		Rules:           []gwv1.TCPRouteRule{{BackendRefs: []gwv1.BackendRef{{BackendObjectReference: gwv1.BackendObjectReference{Name: "db", Namespace: &theirs, Port: &port}}}}}}}))
	grant := func(in, of string) *gwv1.ReferenceGrant {
		return &gwv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: in, Name: "db"}, Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "TCPRoute", Namespace: gwv1.Namespace(of)}},
			To:   []gwv1.ReferenceGrantTo{{Kind: "Service"}}}}
	}
	// resolved waits until the route's status says so, and looks at what is
	// published then: that comes first.
	resolved := func(step string, status metav1.ConditionStatus, reason string, backends int) {
		t.Helper()
		w.until(step, func() string {
			r := get(w, "db", &gwv1.TCPRoute{})
			if len(r.Status.Parents) != 1 {
				return "the route has no parent"
			}
			return condition(r.Status.Parents[0].Conditions, r.Generation, "ResolvedRefs", status, reason)
		})
		if got := w.backends("gw"); got != backends {
			t.Fatalf("%s: %d backends are published, want %d", step, got, backends)
		}
	}

	// Grants that are not for this: in the route's namespace, for itself or for
	// the other one, and for a third (Cilium, GHSA-r7wr-qhp4-m4ch: any grant in
	// any namespace was enough).
	wrong := []*gwv1.ReferenceGrant{grant(w.ns, w.ns), grant(system, w.ns), grant(other.Name, other.Name)}
	for _, g := range wrong {
		w.must(root.Create(t.Context(), g))
	}
	w.start("a", nil)
	resolved("with grants for others", metav1.ConditionFalse, "RefNotPermitted", 0)
	for _, g := range wrong {
		w.must(root.Delete(t.Context(), g))
	}
	for i := range 100 {
		w.must(root.Create(t.Context(), grant(other.Name, w.ns)))
		resolved(fmt.Sprintf("grant %d", i), metav1.ConditionTrue, "ResolvedRefs", 1)
		w.must(root.Delete(t.Context(), grant(other.Name, w.ns)))
		resolved(fmt.Sprintf("no grant %d", i), metav1.ConditionFalse, "RefNotPermitted", 0)
	}
}
