// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
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
  gatewayClassName: sluice
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

func parseAddresses(t *testing.T, texts []string) (out []netip.Addr) {
	t.Helper()
	for _, text := range texts {
		a, err := netip.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

func (c *cluster) gateway() *gwv1.Gateway {
	c.t.Helper()
	g := &gwv1.Gateway{}
	c.must(c.Get(c.t.Context(), types.NamespacedName{Namespace: c.namespace, Name: "gw"}, g))
	return g
}

// published is the Secret of the Gateway, nil without one.
func (c *cluster) published() *corev1.Secret {
	c.t.Helper()
	s := &corev1.Secret{}
	err := c.Get(c.t.Context(), types.NamespacedName{Namespace: system, Name: publication.SecretName(c.namespace + "/gw")}, s)
	if client.IgnoreNotFound(err) != nil {
		c.t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return s
}

// condition says what is wrong with a condition of the Gateway.
func (c *cluster) condition(typ string, want metav1.ConditionStatus, message string) string {
	g := c.gateway()
	have := meta.FindStatusCondition(g.Status.Conditions, typ)
	switch {
	case have == nil:
		return fmt.Sprintf("no condition %s", typ)
	case have.Status != want || !strings.Contains(have.Message, message) || have.ObservedGeneration != g.Generation:
		return fmt.Sprintf("%s is %s at generation %d of %d: %s", typ, have.Status, have.ObservedGeneration, g.Generation, have.Message)
	}
	return ""
}

func (c *cluster) programmed() {
	c.t.Helper()
	c.eventually("Programmed", func() string { return c.condition("Programmed", metav1.ConditionTrue, "") })
}

func TestObjectsReachNodesAndNodesTheStatuses(t *testing.T) {
	c := newCluster(t)
	first := c.secret("redis", "redis.example.com")
	c.replica("one")
	c.apply(shop)
	c.eventually("nobody serves", func() string { return c.condition("Programmed", metav1.ConditionUnknown, "waiting for nodes") })

	n1, _ := c.node("n1", "192.0.2.1")
	n2, stop := c.node("n2", "192.0.2.2")
	c.programmed()
	c.eventually("addresses", func() string {
		if a := c.gateway().Status.Addresses; len(a) != 2 || a[0].Value != "192.0.2.1" || a[1].Value != "192.0.2.2" {
			return fmt.Sprint(a)
		}
		return ""
	})
	if n1.chain() != string(first) || n2.chain() != string(first) {
		t.Error("the nodes serve another certificate")
	}
	route := &gwv1.TCPRoute{}
	c.must(c.Get(t.Context(), types.NamespacedName{Namespace: c.namespace, Name: "redis"}, route))
	if p := route.Status.Parents; len(p) != 1 || !meta.IsStatusConditionTrue(p[0].Conditions, "Accepted") || !meta.IsStatusConditionTrue(p[0].Conditions, "ResolvedRefs") {
		t.Errorf("status of the route: %v", p)
	}

	// A certificate is exchanged, and the Gateway is Programmed all the time.
	before := meta.FindStatusCondition(c.gateway().Status.Conditions, "Programmed").LastTransitionTime
	second := c.secret("redis", "redis.example.com")
	c.eventually("second certificate", func() string {
		if n1.chain() != string(second) || n2.chain() != string(second) {
			return "not served"
		}
		return ""
	})
	c.programmed()
	if after := meta.FindStatusCondition(c.gateway().Status.Conditions, "Programmed").LastTransitionTime; !after.Equal(&before) {
		t.Error("Programmed went away while a certificate was exchanged")
	}

	// A node on which a listener fails is named.
	n2.mu.Lock()
	n2.problems = map[string]string{c.namespace + "/gw/redis": "listen tcp :443: bind: address already in use"}
	n2.mu.Unlock()
	c.eventually("failure", func() string { return c.condition("Programmed", metav1.ConditionFalse, "") })
	listener := meta.FindStatusCondition(c.gateway().Status.Listeners[0].Conditions, "Programmed")
	if want := "address already in use (on n2 of 2 nodes)"; !strings.Contains(listener.Message, want) {
		t.Errorf("listener: %q, want %q", listener.Message, want)
	}
	c.eventually("Event", func() string {
		list := &eventsv1.EventList{}
		c.must(c.List(t.Context(), list, client.InNamespace(c.namespace)))
		for _, e := range list.Items {
			if e.Regarding.Kind == "Gateway" && e.Type == corev1.EventTypeWarning && strings.Contains(e.Note, "address already in use") {
				return ""
			}
		}
		return fmt.Sprintf("none of %d", len(list.Items))
	})
	// It ends, and counts no more.
	stop()
	c.programmed()

	c.must(c.Delete(t.Context(), c.gateway()))
	c.eventually("Secret of the deleted Gateway", func() string {
		if c.published() != nil {
			return "is there"
		}
		return ""
	})
}

func TestPublishedSecretsAreMended(t *testing.T) {
	c := newCluster(t)
	c.secret("redis", "redis.example.com")
	c.replica("one")
	c.apply(shop)
	c.eventually("published", func() string {
		if c.published() == nil {
			return "no"
		}
		return ""
	})
	good := c.published().Data
	for name, spoil := range map[string]func(*corev1.Secret) error{
		"deleted": func(s *corev1.Secret) error { return c.Delete(t.Context(), s) },
		"changed": func(s *corev1.Secret) error {
			s.Data["snapshot.json.gz"] = []byte("x")
			return c.Update(t.Context(), s)
		},
		"without label": func(s *corev1.Secret) error {
			s.Labels = nil
			return c.Update(t.Context(), s)
		},
		"immutable and changed": func(s *corev1.Secret) error {
			yes := true
			s.Data["snapshot.json.gz"], s.Immutable = []byte("x"), &yes
			return c.Update(t.Context(), s)
		},
	} {
		s := c.published()
		c.must(spoil(s))
		c.eventually(name, func() string {
			now := c.published()
			switch {
			case now == nil:
				return "gone"
			case publication.GatewayOf(now) != c.namespace+"/gw":
				return "not of the Gateway"
			case string(now.Data["snapshot.json.gz"]) != string(good["snapshot.json.gz"]):
				return "as it was spoiled"
			}
			return ""
		})
	}
}

func TestSecretsOfOthersAreNotTouched(t *testing.T) {
	c := newCluster(t)
	c.secret("redis", "redis.example.com")
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: publication.SecretName(c.namespace + "/gw")},
		Data: map[string][]byte{"theirs": []byte("x")}}
	c.must(c.Create(t.Context(), foreign))
	c.replica("one")
	c.node("n1", "192.0.2.1")
	c.apply(shop)
	c.eventually("status", func() string {
		l := c.gateway().Status.Listeners
		if len(l) == 0 {
			return "none"
		}
		p := meta.FindStatusCondition(l[0].Conditions, "Programmed")
		if p == nil || !strings.Contains(p.Message, "not Sluice's") || !strings.Contains(p.Message, "delete or rename it") {
			return fmt.Sprint(p)
		}
		return ""
	})
	if s := c.published(); string(s.Data["theirs"]) != "x" || len(s.Data) != 1 || s.ResourceVersion != foreign.ResourceVersion {
		t.Error("the Secret of somebody else was changed")
	}
	c.must(c.Delete(t.Context(), foreign))
	c.programmed()
}

func TestTheLastGoodCertificateSurvivesARestart(t *testing.T) {
	c := newCluster(t)
	good := c.secret("redis", "redis.example.com")
	one := c.replica("one")
	n, _ := c.node("n1", "192.0.2.1")
	c.apply(shop)
	c.programmed()
	one.stop()
	c.put("redis", []byte("no certificate"), []byte("no key"))
	c.replica("two")
	c.eventually("status", func() string {
		p := meta.FindStatusCondition(c.gateway().Status.Listeners[0].Conditions, "ResolvedRefs")
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
	c := newCluster(t)
	c.secret("redis", "redis.example.com")
	c.replica("one")
	c.node("n1", "192.0.2.1")
	c.apply(shop)
	c.programmed()
	// Somebody writes a condition of its own again and again while we are at it.
	for i := range 20 {
		for {
			g := c.gateway()
			meta.SetStatusCondition(&g.Status.Conditions, metav1.Condition{Type: "example.com/Audited", Status: metav1.ConditionTrue, Reason: "Audited", Message: fmt.Sprint(i)})
			if err := c.Status().Update(t.Context(), g); err == nil {
				break
			}
		}
		g := c.gateway()
		g.Spec.Listeners[0].Port = gwv1.PortNumber(1000 + i)
		_ = c.Update(t.Context(), g) // a conflict is as good
	}
	route := &gwv1.TCPRoute{}
	key := types.NamespacedName{Namespace: c.namespace, Name: "redis"}
	c.must(c.Get(t.Context(), key, route))
	theirs := gwv1.RouteParentStatus{ParentRef: gwv1.ParentReference{Name: "other"}, ControllerName: "example.com/other",
		Conditions: []metav1.Condition{{Type: "Accepted", Status: metav1.ConditionTrue, Reason: "Accepted", LastTransitionTime: metav1.Now()}}}
	route.Status.Parents = []gwv1.RouteParentStatus{theirs} // and what we wrote is gone
	c.eventually("write the route", func() string {
		if err := c.Status().Update(t.Context(), route); err != nil {
			c.must(c.Get(t.Context(), key, route))
			route.Status.Parents = []gwv1.RouteParentStatus{theirs}
			return err.Error()
		}
		return ""
	})
	c.programmed()
	if m := meta.FindStatusCondition(c.gateway().Status.Conditions, "example.com/Audited"); m == nil || m.Message != "19" {
		t.Errorf("condition of somebody else: %v", m)
	}
	c.eventually("parents", func() string {
		c.must(c.Get(t.Context(), key, route))
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
	version := c.gateway().ResourceVersion
	time.Sleep(time.Second)
	if now := c.gateway().ResourceVersion; now != version {
		t.Errorf("the Gateway went from version %s to %s though nothing changed", version, now)
	}
}
