// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// optional are the CRDs that a cluster may do without.
var optional = []string{"tlsroutes.gateway.networking.k8s.io", "tcproutes.gateway.networking.k8s.io", "udproutes.gateway.networking.k8s.io",
	"grpcroutes.gateway.networking.k8s.io", "listenersets.gateway.networking.k8s.io", "backendtlspolicies.gateway.networking.k8s.io",
	"referencegrants.gateway.networking.k8s.io", "gatewayconfigs.sluice.dev"}

// remove removes CRDs, and all objects of theirs.
func (w *world) remove(crds ...string) {
	w.Helper()
	for _, name := range crds {
		d := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: name}}
		w.must(client.IgnoreNotFound(root.Delete(w.Context(), d)))
	}
	for _, name := range crds {
		w.until("CRD "+name+" to go", func() string {
			err := root.Get(w.Context(), client.ObjectKey{Name: name}, &apiextensionsv1.CustomResourceDefinition{})
			if apierrors.IsNotFound(err) {
				return ""
			}
			return fmt.Sprintf("it is there (%v)", err)
		})
	}
}

// attached tells what the listeners of the Gateway are short of having so many
// routes.
func (w *world) attached(gateway string, routes map[gwv1.SectionName]int32) string {
	w.Helper()
	got := map[gwv1.SectionName]int32{}
	for _, l := range get(w, gateway, &gwv1.Gateway{}).Status.Listeners {
		got[l.Name] = l.AttachedRoutes
	}
	if fmt.Sprint(got) != fmt.Sprint(routes) {
		return fmt.Sprintf("attached routes %v, want %v", got, routes)
	}
	return ""
}

const webRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: NS, name: http}
spec:
  parentRefs: [{name: web}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {namespace: NS, name: web}
spec: {gatewayClassName: CLASS, listeners: [{name: http, port: 80, protocol: HTTP}]}
`

// TestKindsComeAndGo starts a controller without any kind that a cluster can do
// without, brings them all, and takes one away.
func TestKindsComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.remove(optional...)
	w.Cleanup(func() {
		if err := server.Install(context.Background(), optional...); err != nil { // for the tests after one that failed
			t.Error(err)
		}
	})
	w.keyPair("shop", "shop.example")
	w.apply(webRoute)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("web")

	w.must(server.Install(t.Context(), optional...))
	w.apply(store)
	w.untilProgrammed("gw")
	w.until("routes of the new kinds", func() string { return w.attached("gw", map[gwv1.SectionName]int32{"tls": 1, "tcp": 1}) })
	if n := w.backends("gw"); n != 1 {
		t.Errorf("%d backends are published, want 1", n)
	}

	w.remove("tcproutes.gateway.networking.k8s.io")
	w.until("the TCPRoutes to be forgotten", func() string { return w.attached("gw", map[gwv1.SectionName]int32{"tls": 1, "tcp": 0}) })
	w.must(server.Install(t.Context(), "tcproutes.gateway.networking.k8s.io"))
	w.apply(store)
	w.until("the TCPRoute that came back", func() string { return w.attached("gw", map[gwv1.SectionName]int32{"tls": 1, "tcp": 1}) })
	w.untilProgrammed("gw")
	w.untilProgrammed("web")
}

// TestTheMissingGatewayAPIIsNamed starts a controller in a cluster without the
// Gateway API, which the log tells with the cure; then it comes.
func TestTheMissingGatewayAPIIsNamed(t *testing.T) {
	const gateways = "gateways.gateway.networking.k8s.io"
	w := newWorld(t)
	w.remove(gateways)
	w.Cleanup(func() {
		if err := server.Install(context.Background(), gateways); err != nil {
			t.Error(err)
		}
	})
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.until("the log to name the cure", func() string {
		if !strings.Contains(w.log.String(), "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/") {
			return "it does not"
		}
		return ""
	})
	w.must(server.Install(t.Context(), gateways))
	w.apply(webRoute)
	w.untilProgrammed("web")
}

// TestAnOldVersionOfARouteIsServed serves TCPRoutes as v1alpha2 only, as the
// experimental channel did until Gateway API 1.5.
func TestAnOldVersionOfARouteIsServed(t *testing.T) {
	const name = "tcproutes.gateway.networking.k8s.io"
	w := newWorld(t)
	serve := func(v1 bool) {
		t.Helper()
		d := &apiextensionsv1.CustomResourceDefinition{}
		w.must(root.Get(t.Context(), client.ObjectKey{Name: name}, d))
		for i := range d.Spec.Versions {
			v := &d.Spec.Versions[i]
			v.Served = v.Name == "v1" && v1 || v.Name == "v1alpha2"
		}
		w.must(root.Update(t.Context(), d))
	}
	w.keyPair("shop", "shop.example")
	w.apply(store)
	serve(false)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")
	w.until("the TCPRoute", func() string { return w.attached("gw", map[gwv1.SectionName]int32{"tls": 1, "tcp": 1}) })

	serve(true)
	w.until("its status in the new version", func() string {
		r := &gwv1.TCPRoute{}
		if err := root.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "redis"}, r); err != nil {
			return err.Error() // not served yet
		}
		if len(r.Status.Parents) != 1 {
			return "it has no parent"
		}
		return condition(r.Status.Parents[0].Conditions, r.Generation, "Accepted", metav1.ConditionTrue, "Accepted")
	})
	w.edit(1001)
	w.untilProgrammed("gw")
}
