// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
)

// TestAGatewayOutlivesTheParametersOfItsClass deletes the GatewayConfig that a Gateway
// has its address from, and starts a controller that never saw it.
func TestAGatewayOutlivesTheParametersOfItsClass(t *testing.T) {
	w := newWorld(t)
	w.apply(webRoute + `
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {namespace: NS, name: pool}
spec: {addresses: {mode: Pool, pools: [198.51.100.0/24]}}
`)
	class := &gwv1.GatewayClass{}
	w.must(root.Get(t.Context(), client.ObjectKey{Name: w.class}, class))
	namespace := gwv1.Namespace(w.ns)
	class.Spec.ParametersRef = &gwv1.ParametersReference{Group: "sluice.dev", Kind: "GatewayConfig", Namespace: &namespace, Name: "pool"}
	w.must(root.Update(t.Context(), class))
	a := w.start("a", nil)
	served := func(port uint16) string {
		s := w.part("web")
		if s == nil {
			return "nothing is published"
		}
		part, err := publication.Decode(s)
		w.must(err)
		if got, want := fmt.Sprint(part.Listeners[0].Port, part.Addresses), fmt.Sprintf("%d [198.51.100.1]", port); got != want {
			return fmt.Sprintf("published is %s, want %s", got, want)
		}
		return ""
	}
	w.until("the Gateway to be published", func() string { return served(80) })

	config := &unstructured.Unstructured{}
	config.SetAPIVersion("sluice.dev/v1alpha1")
	config.SetKind("GatewayConfig")
	config.SetNamespace(w.ns)
	config.SetName("pool")
	w.must(root.Delete(t.Context(), config))
	pending := func() string {
		g := get(w, "web", &gwv1.Gateway{})
		if lack := condition(g.Status.Conditions, g.Generation, "Accepted", metav1.ConditionUnknown, "Pending"); lack != "" {
			return lack
		}
		return served(uint16(g.Spec.Listeners[0].Port))
	}
	w.until("the Gateway to be told", pending)
	a.stop()
	w.start("b", nil)
	g := get(w, "web", &gwv1.Gateway{})
	g.Spec.Listeners[0].Port = 81
	w.must(root.Update(t.Context(), g))
	w.until("the other controller to publish a change", pending)
}

// TestAGatewayThatLeavesIsTakenBack gives a Gateway to another controller, which does
// not run, then lets that one write, and takes it back.
func TestAGatewayThatLeavesIsTakenBack(t *testing.T) {
	w := newWorld(t)
	ws := &writes{}
	w.apply(webRoute)
	w.start("a", ws)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("web")
	other := &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "other-"}, Spec: gwv1.GatewayClassSpec{ControllerName: "example.com/other"}}
	w.must(root.Create(t.Context(), other))
	give := func(class string) {
		t.Helper()
		w.until("the Gateway to have another class", func() string { // while its status is written
			g := get(w, "web", &gwv1.Gateway{})
			g.Spec.GatewayClassName = gwv1.ObjectName(class)
			if err := root.Update(t.Context(), g); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	give(other.Name)
	w.until("the status to be taken back", func() string {
		g := get(w, "web", &gwv1.Gateway{})
		if n := len(g.Status.Addresses) + len(g.Status.Listeners); n > 0 {
			return fmt.Sprintf("%d addresses and listeners are left", n)
		}
		for _, typ := range []string{"Accepted", "Programmed"} {
			if lack := condition(g.Status.Conditions, g.Generation, typ, metav1.ConditionUnknown, "Pending"); lack != "" {
				return lack
			}
		}
		if r := get(w, "http", &gwv1.HTTPRoute{}); len(r.Status.Parents) > 0 {
			return "the route has parents"
		}
		return ""
	})

	g := get(w, "web", &gwv1.Gateway{})
	theirs := metav1.Condition{Type: "Programmed", Status: metav1.ConditionTrue, Reason: "Programmed", Message: "served by the other", ObservedGeneration: g.Generation}
	meta.SetStatusCondition(&g.Status.Conditions, theirs)
	w.must(root.Status().Update(t.Context(), g))
	written := len(ws.all())
	route := get(w, "http", &gwv1.HTTPRoute{})
	route.Spec.ParentRefs = append(route.Spec.ParentRefs, gwv1.ParentReference{Name: "mine"})
	w.must(root.Update(t.Context(), route))
	w.apply(strings.NewReplacer("name: web", "name: mine", "port: 80,", "port: 81,").Replace(webRoute[strings.Index(webRoute, "---\n"):]))
	w.untilProgrammed("mine")
	if c := meta.FindStatusCondition(get(w, "web", &gwv1.Gateway{}).Status.Conditions, "Programmed"); c.Message != theirs.Message {
		t.Errorf("what the other controller wrote is %+v now, after %v", c, ws.all()[written:])
	}
	give(w.class)
	w.untilProgrammed("web")
}
