// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
)

func TestFromObjectsToServedOnAllNodes(t *testing.T) {
	w := newWorld(t)
	w.start("a", nil)
	w.keyPair("shop", "shop.example")
	w.apply(shop)
	w.until("Gateway without nodes", func() string { return w.gatewayIs("gw", metav1.ConditionUnknown, gwv1.GatewayReasonPending) })

	w.node("n1", "192.0.2.1")
	n2 := w.node("n2", "192.0.2.2")
	w.until("the addresses of two nodes", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		if a := g.Status.Addresses; len(a) != 2 || a[0].Value != "192.0.2.1" || a[1].Value != "192.0.2.2" {
			return fmt.Sprint(a)
		}
		return condition(g.Status.Conditions, g.Generation, "Programmed", metav1.ConditionTrue, "Programmed")
	})
	class := get(w, w.class, &gwv1.GatewayClass{})
	if lack := condition(class.Status.Conditions, class.Generation, "Accepted", metav1.ConditionTrue, "Accepted"); lack != "" {
		t.Error(lack)
	}
	for _, o := range []struct {
		name   string
		route  client.Object
		status *gwv1.RouteStatus
	}{routeOf("web", &gwv1.TLSRoute{}, func(r *gwv1.TLSRoute) *gwv1.RouteStatus { return &r.Status.RouteStatus }),
		routeOf("redis", &gwv1.TCPRoute{}, func(r *gwv1.TCPRoute) *gwv1.RouteStatus { return &r.Status.RouteStatus })} {
		get(w, o.name, o.route)
		for _, typ := range []string{"Accepted", "ResolvedRefs"} {
			if len(o.status.Parents) != 1 {
				t.Errorf("%s has %d parents", o.name, len(o.status.Parents))
			} else if lack := condition(o.status.Parents[0].Conditions, o.route.GetGeneration(), typ, metav1.ConditionTrue, typ); lack != "" {
				t.Errorf("%s: %s", o.name, lack)
			}
		}
	}

	n2.fail(w.ns+"/gw/tcp", "the port is taken")
	w.until("the failure on one node to be told", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		for _, l := range g.Status.Listeners {
			if l.Name == "tcp" {
				if lack := condition(l.Conditions, g.Generation, "Programmed", metav1.ConditionFalse, "Invalid"); lack != "" {
					return lack
				}
				if got := message(l.Conditions, "Programmed"); got != "the port is taken (on n2 of 2 nodes)" {
					return got
				}
				return ""
			}
		}
		return "no listener tcp"
	})
	n2.fail(w.ns+"/gw/tcp", "")
	n2.stop()
	w.until("one node to be enough when the other has ended", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		if a := g.Status.Addresses; len(a) != 1 {
			return fmt.Sprint(a)
		}
		for _, l := range g.Status.Listeners {
			if lack := condition(l.Conditions, g.Generation, "Programmed", metav1.ConditionTrue, "Programmed"); lack != "" {
				return lack
			}
		}
		return ""
	})

	w.must(admin.Delete(t.Context(), get(w, "gw", &gwv1.Gateway{})))
	w.until("the part to go with its Gateway", func() string {
		if w.part("gw") != nil {
			return "it is there"
		}
		return ""
	})
	w.until("the routes to have no parents", func() string {
		if p := get(w, "web", &gwv1.TLSRoute{}).Status.Parents; len(p) > 0 {
			return fmt.Sprint(p)
		}
		return ""
	})
}

// routeOf is a route with where its status is.
func routeOf[T client.Object](name string, r T, status func(T) *gwv1.RouteStatus) (o struct {
	name   string
	route  client.Object
	status *gwv1.RouteStatus
}) {
	o.name, o.route, o.status = name, r, status(r)
	return o
}

func TestWhatIsPublishedIsPutRight(t *testing.T) {
	w := newWorld(t)
	w.keyPair("shop", "shop.example")
	w.apply(shop)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")
	good := w.part("gw")
	for what, spoil := range map[string]func(*corev1.Secret) error{
		"edited": func(s *corev1.Secret) error {
			maps.DeleteFunc(s.Data, func(string, []byte) bool { return true })
			return admin.Update(t.Context(), s)
		},
		"deleted":     func(s *corev1.Secret) error { return admin.Delete(t.Context(), s) },
		"unlabeled":   func(s *corev1.Secret) error { s.Labels = nil; return admin.Update(t.Context(), s) },
		"unannotated": func(s *corev1.Secret) error { s.Annotations = nil; return admin.Update(t.Context(), s) },
		"immutable": func(s *corev1.Secret) error {
			yes := true
			s.Immutable, s.Data = &yes, nil
			return admin.Update(t.Context(), s)
		},
	} {
		s := w.part("gw")
		w.must(spoil(s))
		version := publication.Version(s)
		if what == "deleted" {
			version = 0
		}
		w.until("what was "+what+" to be put right", func() string {
			now := w.part("gw")
			switch {
			case now == nil:
				return "it is not there"
			case publication.Version(now) <= version:
				return "nobody has written it since"
			case publication.HashOf(now) != publication.HashOf(good):
				return "its hash differs"
			}
			if _, err := publication.Decode(now); err != nil {
				return err.Error()
			}
			return ""
		})
		w.untilProgrammed("gw")
	}
}

func TestASecretOfSomebodyElseIsLeftAloneAndTheGatewayToldOfIt(t *testing.T) {
	w := newWorld(t)
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: own, Name: publication.SecretName(w.ns + "/gw")}, Data: map[string][]byte{"a": []byte("b")}}
	w.must(admin.Create(t.Context(), theirs))
	w.keyPair("shop", "shop.example")
	w.apply(shop)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.until("the Gateway to be told", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		if lack := condition(g.Status.Conditions, g.Generation, "Programmed", metav1.ConditionFalse, "Invalid"); lack != "" {
			return lack
		}
		for _, l := range g.Status.Listeners {
			if got := message(l.Conditions, "Programmed"); !strings.Contains(got, "that is not Sluice's") || !strings.Contains(got, theirs.Name) || !strings.Contains(got, "delete or rename it") {
				return got
			}
		}
		return ""
	})
	now := w.part("gw")
	if now == nil || now.ResourceVersion != theirs.ResourceVersion {
		t.Fatal("somebody else's Secret was touched")
	}
	w.must(admin.Delete(t.Context(), now))
	w.untilProgrammed("gw")
}

func TestAPartThatIsTooLargeIsToldAndWhatWasServedStays(t *testing.T) {
	w := newWorld(t)
	w.keyPair("shop", "shop.example")
	w.apply(shop)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")
	g := get(w, "gw", &gwv1.Gateway{})
	g.Spec.Listeners = append(g.Spec.Listeners, gwv1.Listener{Name: "http", Port: 80, Protocol: gwv1.HTTPProtocolType})
	w.must(admin.Update(t.Context(), g))
	w.must(admin.Create(t.Context(), w.largeRoute("large-0")))
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
	w.must(admin.Create(t.Context(), w.largeRoute("large-1")))
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
	w.must(admin.Delete(t.Context(), get(w, "large-1", &gwv1.HTTPRoute{})))
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

func TestTheLastGoodCertificateOutlivesTheController(t *testing.T) {
	w := newWorld(t)
	chain := w.keyPair("shop", "shop.example")
	w.apply(shop)
	first := w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.untilProgrammed("gw")
	first.stop()

	w.putSecret("shop", map[string][]byte{corev1.TLSCertKey: []byte("-"), corev1.TLSPrivateKeyKey: []byte("-")})
	w.start("b", nil)
	w.until("the bad certificate to be told", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		for _, l := range g.Status.Listeners {
			if l.Name == "tls" {
				return condition(l.Conditions, g.Generation, "ResolvedRefs", metav1.ConditionFalse, string(gwv1.ListenerReasonInvalidCertificateRef))
			}
		}
		return "no listener tls"
	})
	part, err := publication.Decode(w.part("gw"))
	w.must(err)
	if len(part.Certificates) != 1 || !bytes.Equal(part.Certificates[0].Chain, chain) {
		t.Fatal("the last good certificate is not served")
	}
	renewed := w.keyPair("shop", "shop.example")
	w.until("the new certificate", func() string {
		part, err := publication.Decode(w.part("gw"))
		w.must(err)
		if len(part.Certificates) != 1 || !bytes.Equal(part.Certificates[0].Chain, renewed) {
			return "it is not there"
		}
		return ""
	})
	w.untilProgrammed("gw")
}
