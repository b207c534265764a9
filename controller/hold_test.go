// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller"
)

// finalizersAre tells what a class is short of having such finalizers.
func (w *world) finalizersAre(class string, want ...string) func() string {
	return func() string {
		c := &gwv1.GatewayClass{}
		w.must(root.Get(w.Context(), client.ObjectKey{Name: class}, c))
		if !slices.Equal(c.Finalizers, want) {
			return fmt.Sprintf("finalizers are %q, want %q", c.Finalizers, want)
		}
		return ""
	}
}

// TestAGatewayClassStaysWhileGatewaysUseIt deletes a class of ours and one of another
// controller, each with a Gateway, and then the Gateway.
func TestAGatewayClassStaysWhileGatewaysUseIt(t *testing.T) {
	const theirs, ours = "example.com/audit", gwv1.GatewayClassFinalizerGatewaysExist
	w := newWorld(t)
	create := func(of gwv1.GatewayController) *gwv1.GatewayClass {
		t.Helper()
		c := &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "class-", Finalizers: []string{theirs}}, Spec: gwv1.GatewayClassSpec{ControllerName: of}}
		w.must(root.Create(t.Context(), c))
		return c
	}
	own, other := create(controller.ControllerName), create("example.com/other")
	of := func(name, class string) string {
		return strings.NewReplacer("name: web", "name: "+name, "CLASS", class).Replace(webRoute[strings.Index(webRoute, "---\n"):])
	}
	w.apply(of("other", other.Name) + of("web", own.Name))
	ws := &writes{}
	w.start("a", ws)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("web")
	w.until("the class to be held", w.finalizersAre(own.Name, theirs, ours))

	w.must(root.Delete(t.Context(), own))
	g := get(w, "web", &gwv1.Gateway{})
	g.Spec.Listeners[0].Port = 81
	w.must(root.Update(t.Context(), g))
	w.untilProgrammed("web") // by a class that is about to go
	if lack := w.finalizersAre(own.Name, theirs, ours)(); lack != "" {
		t.Error(lack)
	}
	w.must(root.Delete(t.Context(), g))
	w.until("the class to be let go", w.finalizersAre(own.Name, theirs))
	if lack := w.finalizersAre(other.Name, theirs)(); lack != "" {
		t.Errorf("of another controller: %s", lack)
	}
	for _, write := range ws.all() {
		if strings.Contains(write.path, other.Name) {
			t.Errorf("the class of another controller was written: %v", write)
		}
	}
}

// TestAGatewayClassThatNobodyUsesGoesAtOnce has one be used, by a Gateway that then
// gets another class.
func TestAGatewayClassThatNobodyUsesGoesAtOnce(t *testing.T) {
	w := newWorld(t)
	second := &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "second-"}, Spec: gwv1.GatewayClassSpec{ControllerName: controller.ControllerName}}
	w.must(root.Create(t.Context(), second))
	w.apply(webRoute)
	w.start("a", nil)
	w.until("the class to be held", w.finalizersAre(w.class, gwv1.GatewayClassFinalizerGatewaysExist))
	w.until("the Gateway to have another class", func() string { // while its status is written
		g := get(w, "web", &gwv1.Gateway{})
		g.Spec.GatewayClassName = gwv1.ObjectName(second.Name)
		if err := root.Update(t.Context(), g); err != nil {
			return err.Error()
		}
		return ""
	})
	w.until("the class to be let go", w.finalizersAre(w.class))
	w.until("the other to be held", w.finalizersAre(second.Name, gwv1.GatewayClassFinalizerGatewaysExist))
	w.must(root.Delete(t.Context(), second))
	w.must(root.Delete(t.Context(), get(w, "web", &gwv1.Gateway{})))
	w.until("the other to be gone", func() string {
		err := root.Get(t.Context(), client.ObjectKeyFromObject(second), &gwv1.GatewayClass{})
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprintf("it is there (%v)", err)
	})
}
