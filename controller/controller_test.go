// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
)

// shop is a Gateway with a route and a backend.
const shop = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: NS}
spec:
  gatewayClassName: CLASS
  listeners:
  - {name: redis, port: 443, protocol: TLS, hostname: redis.example.com, tls: {mode: Terminate, certificateRefs: [{name: redis}]}}
---
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: NS}
spec: {ports: [{port: 6379}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: redis, namespace: NS}
spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: redis, port: 6379}]}]}
`

// programmedIs tells what the Gateway's Programmed condition is short of saying.
func (w *world) programmedIs(want metav1.ConditionStatus, message string) string {
	w.Helper()
	g := get(w, "gw", &gwv1.Gateway{})
	have := meta.FindStatusCondition(g.Status.Conditions, "Programmed")
	switch {
	case have == nil:
		return "no condition Programmed"
	case have.Status != want || !strings.Contains(have.Message, message) || have.ObservedGeneration != g.Generation:
		return fmt.Sprintf("Programmed is %s at generation %d of %d: %s", have.Status, have.ObservedGeneration, g.Generation, have.Message)
	}
	return ""
}

func TestObjectsReachNodesAndNodesTheStatuses(t *testing.T) {
	w := newWorld(t)
	first := w.keyPair("redis", "redis.example.com")
	w.start("one", nil)
	w.apply(shop)
	w.until("nobody serves", func() string { return w.programmedIs(metav1.ConditionUnknown, "waiting for nodes") })

	n1 := w.node("n1", "192.0.2.1")
	n2 := w.node("n2", "192.0.2.2")
	w.untilProgrammed("gw")
	w.until("addresses", func() string {
		if a := get(w, "gw", &gwv1.Gateway{}).Status.Addresses; len(a) != 2 || a[0].Value != "192.0.2.1" || a[1].Value != "192.0.2.2" {
			return fmt.Sprint(a)
		}
		return ""
	})
	if n1.chain() != string(first) || n2.chain() != string(first) {
		t.Error("the nodes serve another certificate")
	}
	route := &gwv1.TCPRoute{}
	w.must(root.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: "redis"}, route))
	if p := route.Status.Parents; len(p) != 1 || !meta.IsStatusConditionTrue(p[0].Conditions, "Accepted") || !meta.IsStatusConditionTrue(p[0].Conditions, "ResolvedRefs") {
		t.Errorf("status of the route: %v", p)
	}

	// A certificate is exchanged, and the Gateway is Programmed all the time.
	before := meta.FindStatusCondition(get(w, "gw", &gwv1.Gateway{}).Status.Conditions, "Programmed").LastTransitionTime
	second := w.keyPair("redis", "redis.example.com")
	w.until("second certificate", func() string {
		if n1.chain() != string(second) || n2.chain() != string(second) {
			return "not served"
		}
		return ""
	})
	w.untilProgrammed("gw")
	if after := meta.FindStatusCondition(get(w, "gw", &gwv1.Gateway{}).Status.Conditions, "Programmed").LastTransitionTime; !after.Equal(&before) {
		t.Error("Programmed went away while a certificate was exchanged")
	}

	// A node on which a listener fails is named.
	n2.fail(w.ns+"/gw/redis", "listen tcp :443: bind: address already in use")
	w.until("failure", func() string { return w.programmedIs(metav1.ConditionFalse, "") })
	listener := meta.FindStatusCondition(get(w, "gw", &gwv1.Gateway{}).Status.Listeners[0].Conditions, "Programmed")
	if want := "address already in use (on n2 of 2 nodes)"; !strings.Contains(listener.Message, want) {
		t.Errorf("listener: %q, want %q", listener.Message, want)
	}
	w.until("Event", func() string {
		list := &eventsv1.EventList{}
		w.must(root.List(t.Context(), list, client.InNamespace(w.ns)))
		for _, e := range list.Items {
			if e.Regarding.Kind == "Gateway" && e.Type == corev1.EventTypeWarning && strings.Contains(e.Note, "address already in use") {
				return ""
			}
		}
		return fmt.Sprintf("none of %d", len(list.Items))
	})
	// It ends, and counts no more.
	n2.stop()
	w.untilProgrammed("gw")

	w.must(root.Delete(t.Context(), get(w, "gw", &gwv1.Gateway{})))
	w.until("Secret of the deleted Gateway", func() string {
		if w.part("gw") != nil {
			return "is there"
		}
		return ""
	})
}

// What only nodes see of a Service, its route says.
func TestARouteSaysThatItsServiceHasNoEndpoint(t *testing.T) {
	w := newWorld(t)
	w.keyPair("redis", "redis.example.com")
	w.start("one", nil)
	w.apply(shop)
	w.node("n1", "192.0.2.1")
	resolved := func(message string) func() string {
		return func() string {
			route := &gwv1.TCPRoute{}
			w.must(root.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: "redis"}, route))
			if len(route.Status.Parents) != 1 {
				return "no status"
			}
			c := meta.FindStatusCondition(route.Status.Parents[0].Conditions, "ResolvedRefs")
			if c == nil || c.Status != metav1.ConditionTrue || c.Message != message {
				return fmt.Sprintf("%+v", c)
			}
			return ""
		}
	}
	w.until("no endpoint", resolved("Service "+w.ns+"/redis has no EndpointSlice with label kubernetes.io/service-name: redis; connections are reset"))
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: w.ns, Name: "redis-1", Labels: map[string]string{discoveryv1.LabelServiceName: "redis"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: new(int32(6379)), Name: new("")}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.7"}, Conditions: discoveryv1.EndpointConditions{Ready: new(bool)}}},
	}
	w.must(root.Create(t.Context(), slice))
	w.until("an endpoint that is not ready", resolved("Service "+w.ns+"/redis: none of 1 endpoints is ready; connections are reset"))
	slice.Endpoints[0].Conditions.Ready = new(true)
	w.must(root.Update(t.Context(), slice))
	w.until("an endpoint", resolved("all references are resolved"))
}

func TestPublishedSecretsAreMended(t *testing.T) {
	w := newWorld(t)
	w.keyPair("redis", "redis.example.com")
	w.start("one", nil)
	w.apply(shop)
	w.until("published", func() string {
		if w.part("gw") == nil {
			return "no"
		}
		return ""
	})
	good := w.part("gw").Data
	for name, spoil := range map[string]func(*corev1.Secret) error{
		"deleted": func(s *corev1.Secret) error { return root.Delete(t.Context(), s) },
		"changed": func(s *corev1.Secret) error {
			s.Data["snapshot.json.gz"] = []byte("x")
			return root.Update(t.Context(), s)
		},
		"without label": func(s *corev1.Secret) error {
			s.Labels = nil
			return root.Update(t.Context(), s)
		},
		"immutable and changed": func(s *corev1.Secret) error {
			yes := true
			s.Data["snapshot.json.gz"], s.Immutable = []byte("x"), &yes
			return root.Update(t.Context(), s)
		},
	} {
		s := w.part("gw")
		w.must(spoil(s))
		w.until(name, func() string {
			now := w.part("gw")
			switch {
			case now == nil:
				return "gone"
			case publication.GatewayOf(now) != w.ns+"/gw":
				return "not of the Gateway"
			case string(now.Data["snapshot.json.gz"]) != string(good["snapshot.json.gz"]):
				return "as it was spoiled"
			}
			return ""
		})
	}
}

func TestSecretsOfOthersAreNotTouched(t *testing.T) {
	w := newWorld(t)
	w.keyPair("redis", "redis.example.com")
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: publication.SecretName(w.ns + "/gw")},
		Data: map[string][]byte{"theirs": []byte("x")}}
	w.must(root.Create(t.Context(), foreign))
	w.start("one", nil)
	w.node("n1", "192.0.2.1")
	w.apply(shop)
	w.until("status", func() string {
		l := get(w, "gw", &gwv1.Gateway{}).Status.Listeners
		if len(l) == 0 {
			return "none"
		}
		p := meta.FindStatusCondition(l[0].Conditions, "Programmed")
		if p == nil || !strings.Contains(p.Message, "not Sluice's") || !strings.Contains(p.Message, "delete or rename it") {
			return fmt.Sprint(p)
		}
		return ""
	})
	if s := w.part("gw"); string(s.Data["theirs"]) != "x" || len(s.Data) != 1 || s.ResourceVersion != foreign.ResourceVersion {
		t.Error("the Secret of somebody else was changed")
	}
	w.must(root.Delete(t.Context(), foreign))
	w.untilProgrammed("gw")
}

func TestTheLastGoodCertificateSurvivesARestart(t *testing.T) {
	w := newWorld(t)
	good := w.keyPair("redis", "redis.example.com")
	one := w.start("one", nil)
	n := w.node("n1", "192.0.2.1")
	w.apply(shop)
	w.untilProgrammed("gw")
	one.stop()
	w.putSecret("redis", map[string][]byte{corev1.TLSCertKey: []byte("no certificate"), corev1.TLSPrivateKeyKey: []byte("no key")})
	w.start("two", nil)
	w.until("status", func() string {
		p := meta.FindStatusCondition(get(w, "gw", &gwv1.Gateway{}).Status.Listeners[0].Conditions, "ResolvedRefs")
		if p.Status != metav1.ConditionFalse || !strings.Contains(p.Message, "last good certificate is still served") {
			return p.Message
		}
		return ""
	})
	if n.chain() != string(good) {
		t.Error("the last good certificate is not served")
	}
}

func TestWhatOthersWriteStays(t *testing.T) {
	w := newWorld(t)
	w.keyPair("redis", "redis.example.com")
	w.start("one", nil)
	w.node("n1", "192.0.2.1")
	w.apply(shop)
	w.untilProgrammed("gw")
	// Somebody writes a condition of its own again and again while we are at it.
	for i := range 20 {
		for {
			g := get(w, "gw", &gwv1.Gateway{})
			meta.SetStatusCondition(&g.Status.Conditions, metav1.Condition{Type: "example.com/Audited", Status: metav1.ConditionTrue, Reason: "Audited", Message: fmt.Sprint(i)})
			if err := root.Status().Update(t.Context(), g); err == nil {
				break
			}
		}
		g := get(w, "gw", &gwv1.Gateway{})
		g.Spec.Listeners[0].Port = gwv1.PortNumber(1000 + i)
		_ = root.Update(t.Context(), g) // a conflict is as good
	}
	route := &gwv1.TCPRoute{}
	key := types.NamespacedName{Namespace: w.ns, Name: "redis"}
	w.must(root.Get(t.Context(), key, route))
	theirs := gwv1.RouteParentStatus{ParentRef: gwv1.ParentReference{Name: "other"}, ControllerName: "example.com/other",
		Conditions: []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", LastTransitionTime: metav1.Now()}}}
	route.Status.Parents = []gwv1.RouteParentStatus{theirs} // and what we wrote is gone
	w.until("write the route", func() string {
		if err := root.Status().Update(t.Context(), route); err != nil {
			w.must(root.Get(t.Context(), key, route))
			route.Status.Parents = []gwv1.RouteParentStatus{theirs}
			return err.Error()
		}
		return ""
	})
	w.untilProgrammed("gw")
	if m := meta.FindStatusCondition(get(w, "gw", &gwv1.Gateway{}).Status.Conditions, "example.com/Audited"); m == nil || m.Message != "19" {
		t.Errorf("condition of somebody else: %v", m)
	}
	w.until("parents", func() string {
		w.must(root.Get(t.Context(), key, route))
		var who []string
		for _, p := range route.Status.Parents {
			who = append(who, string(p.ControllerName))
		}
		if !slices.Equal(who, []string{"example.com/other", "sluice.dev/gateway-controller"}) {
			return fmt.Sprint(who)
		}
		return ""
	})
	// What is settled is left alone.
	time.Sleep(500 * time.Millisecond)
	version := get(w, "gw", &gwv1.Gateway{}).ResourceVersion
	time.Sleep(time.Second)
	if now := get(w, "gw", &gwv1.Gateway{}).ResourceVersion; now != version {
		t.Errorf("the Gateway went from version %s to %s though nothing changed", version, now)
	}
}
