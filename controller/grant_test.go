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

// TestAReferenceGrantHoldsWhileItIsThere adds and removes one many times, for
// one route after the other: the status of each may not be written too often.
func TestAReferenceGrantHoldsWhileItIsThere(t *testing.T) {
	const routes = 10
	w := newWorld(t)
	other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "other-"}}
	w.must(root.Create(t.Context(), other))
	theirs, port := gwv1.Namespace(other.Name), gwv1.PortNumber(5432)
	name := func(i int) string { return fmt.Sprintf("db-%d", i%routes) }
	gateway := &gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "gw"}, Spec: gwv1.GatewaySpec{GatewayClassName: gwv1.ObjectName(w.class)}}
	for i := range routes {
		section := gwv1.SectionName(name(i))
		gateway.Spec.Listeners = append(gateway.Spec.Listeners, gwv1.Listener{Name: section, Port: port + gwv1.PortNumber(i), Protocol: gwv1.TCPProtocolType})
		w.must(root.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: other.Name, Name: name(i)},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 5432}}}}))
		w.must(root.Create(t.Context(), &gwv1.TCPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name(i)}, Spec: gwv1.TCPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "gw", SectionName: &section}}},
			Rules: []gwv1.TCPRouteRule{{BackendRefs: []gwv1.BackendRef{{BackendObjectReference: gwv1.BackendObjectReference{
				Name: gwv1.ObjectName(name(i)), Namespace: &theirs, Port: &port}}}}}}}))
	}
	w.must(root.Create(t.Context(), gateway))
	grant := func(in, of string, to *gwv1.ObjectName) *gwv1.ReferenceGrant {
		return &gwv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: in, Name: "db"}, Spec: gwv1.ReferenceGrantSpec{
			From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "TCPRoute", Namespace: gwv1.Namespace(of)}},
			To:   []gwv1.ReferenceGrantTo{{Kind: "Service", Name: to}}}}
	}
	// resolved waits until the route's status says so, and looks at what is
	// published then: that comes first.
	resolved := func(step string, i int, status metav1.ConditionStatus, reason string, backends int) {
		t.Helper()
		w.until(step, func() string {
			r := get(w, name(i), &gwv1.TCPRoute{})
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
	wrong := []*gwv1.ReferenceGrant{grant(w.ns, w.ns, nil), grant(system, w.ns, nil), grant(other.Name, other.Name, nil)}
	for _, g := range wrong {
		w.must(root.Create(t.Context(), g))
	}
	w.start("a", nil)
	resolved("with grants for others", 0, metav1.ConditionFalse, "RefNotPermitted", 0)
	for _, g := range wrong {
		w.must(root.Delete(t.Context(), g))
	}
	for i := range 100 {
		to := gwv1.ObjectName(name(i))
		w.must(root.Create(t.Context(), grant(other.Name, w.ns, &to)))
		resolved(fmt.Sprintf("grant %d", i), i, metav1.ConditionTrue, "ResolvedRefs", 1)
		w.must(root.Delete(t.Context(), grant(other.Name, w.ns, &to)))
		resolved(fmt.Sprintf("no grant %d", i), i, metav1.ConditionFalse, "RefNotPermitted", 0)
	}
}
