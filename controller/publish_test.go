// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
)

func TestAPartThatIsTooLargeIsToldAndWhatWasServedStays(t *testing.T) {
	w := newWorld(t)
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")
	g := get(w, "gw", &gwv1.Gateway{})
	g.Spec.Listeners = append(g.Spec.Listeners, gwv1.Listener{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType})
	w.must(root.Update(t.Context(), g))
	w.must(root.Create(t.Context(), w.largeRoute("large-0")))
	w.until("the large route to be published", func() string {
		part, err := publication.Decode(w.part("gw"))
		w.must(err)
		if l := part.Listeners; len(l) != 3 || !slices.ContainsFunc(l, func(l config.Listener) bool { return len(l.HTTP) > 0 }) {
			return "it is not"
		}
		return ""
	})
	w.untilProgrammed("gw")
	before := w.part("gw")
	w.must(root.Create(t.Context(), w.largeRoute("large-1")))
	w.until("the Gateway to be told", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		for _, l := range g.Status.Listeners {
			if lack := condition(l.Conditions, g.Generation, "Programmed", metav1.ConditionFalse, "Invalid"); lack != "" {
				return lack
			}
			if got := message(l.Conditions, "Programmed"); !strings.Contains(got, "split it into several Gateways") {
				return got
			}
		}
		return ""
	})
	if now := w.part("gw"); now.ResourceVersion != before.ResourceVersion {
		t.Error("something else was published")
	}
	w.must(root.Delete(t.Context(), get(w, "large-1", &gwv1.HTTPRoute{})))
	w.untilProgrammed("gw")
}

// TestAPartThatIsTooLargeKeepsNothingThatIsNoLongerGranted takes a ReferenceGrant
// away that a Gateway uses, which has grown so much that it cannot be published.
func TestAPartThatIsTooLargeKeepsNothingThatIsNoLongerGranted(t *testing.T) {
	w := newWorld(t)
	other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "other-"}}
	w.must(root.Create(t.Context(), other))
	w.must(root.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: other.Name, Name: "db"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}))
	grant := &gwv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: other.Name, Name: "db"}, Spec: gwv1.ReferenceGrantSpec{
		From: []gwv1.ReferenceGrantFrom{{Group: gwv1.GroupName, Kind: "HTTPRoute", Namespace: gwv1.Namespace(w.ns)}, {Group: gwv1.GroupName, Kind: "TCPRoute", Namespace: gwv1.Namespace(w.ns)}},
		To:   []gwv1.ReferenceGrantTo{{Kind: "Service"}}}}
	w.must(root.Create(t.Context(), grant))
	w.apply(strings.ReplaceAll(webRoute+`
---
apiVersion: v1
kind: Service
metadata: {namespace: NS, name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: NS, name: granted}
spec:
  parentRefs: [{name: web}]
  hostnames: [db.example]
  rules: [{backendRefs: [{name: db, namespace: OTHER, port: 80}, {name: web, port: 80}]}]
`, "OTHER", other.Name))
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("web")
	for i := range 2 {
		r := w.largeRoute(fmt.Sprintf("large-%d", i))
		r.Spec.ParentRefs[0].Name = "web"
		w.must(root.Create(t.Context(), r))
	}
	w.until("the Gateway to be too large", func() string {
		for _, l := range get(w, "web", &gwv1.Gateway{}).Status.Listeners {
			if got := message(l.Conditions, "Programmed"); !strings.Contains(got, "split it into several Gateways") {
				return got
			}
		}
		return ""
	})
	if n := w.backends("web"); n != 2 {
		t.Fatalf("%d backends are published, want 2", n)
	}
	w.must(root.Delete(t.Context(), grant))
	w.until("the backend to be taken out", func() string {
		if n := w.backends("web"); n != 1 {
			return fmt.Sprintf("%d backends are published, want 1", n)
		}
		return ""
	})
	part, err := publication.Decode(w.part("web"))
	w.must(err)
	for _, h := range part.Listeners[0].HTTP {
		if h.Hostname != "db.example" {
			continue
		}
		want := []config.HTTPBackendRef{{BackendRef: config.BackendRef{Weight: 1}}, {BackendRef: config.BackendRef{Backend: w.ns + "/web:80", Weight: 1}}}
		if diff := cmp.Diff(want, h.Rules[0].Backends); diff != "" {
			t.Errorf("what is not granted: -want +got:\n%s", diff)
		}
		return
	}
	t.Error("the route is gone")
}

// largeRoute is one of 700 KB that cannot be compressed.
func (w *world) largeRoute(name string) *gwv1.HTTPRoute {
	r := &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name},
		Spec: gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: "gw"}}}}}
	for range 14 {
		f := &gwv1.HTTPHeaderFilter{}
		for i := range 16 {
			noise := make([]byte, 3<<10)
			_, _ = rand.Read(noise) // never fails
			f.Add = append(f.Add, gwv1.HTTPHeader{Name: gwv1.HTTPHeaderName(fmt.Sprintf("h%d", i)), Value: base64.StdEncoding.EncodeToString(noise)})
		}
		r.Spec.Rules = append(r.Spec.Rules, gwv1.HTTPRouteRule{Filters: []gwv1.HTTPRouteFilter{{Type: gwv1.HTTPRouteFilterRequestHeaderModifier, RequestHeaderModifier: f}}})
	}
	return r
}
