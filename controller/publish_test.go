// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

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
