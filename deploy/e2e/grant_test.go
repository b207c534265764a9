// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// granted leads granted.e2e.test into another namespace, and offers grants that
// are not for it: in the route's own namespace, and for another kind of route.
const granted = `
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: granted, namespace: @FROM@}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [granted.e2e.test]
  rules: [{backendRefs: [{namespace: @TO@, name: there, port: 7000}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: wrong-namespace, namespace: @FROM@}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TLSRoute, namespace: @FROM@}]
  to: [{group: "", kind: Service}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: wrong-kind, namespace: @TO@}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: @FROM@}]
  to: [{group: "", kind: Service}]
---
apiVersion: v1
kind: Service
metadata: {name: there, namespace: @TO@}
spec: {selector: {app: there}, ports: [{port: 7000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: there, namespace: @TO@, labels: {app: there}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: keyedserver, image: "sluice.test/keyedserver:1", imagePullPolicy: Never}
`

// A Service of another namespace is served while a ReferenceGrant says so, and
// at no other time.
func TestGrantsComeAndGo(t *testing.T) {
	g := serveGateway(t)
	to := g.namespace + "-there"
	kubectl(t, "create", "namespace", to)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", to, "--timeout=120s") })
	mustCommand(t, strings.NewReplacer("@FROM@", g.namespace, "@TO@", to).Replace(granted), "kubectl.sh", "apply", "-f", "-")
	kubectl(t, "-n", to, "wait", "--for=condition=Ready", "--timeout=120s", "pod/there")

	l := startLoad(t, g, 20, 20, g.nodes[0]+".e2e.test", g.nodes[1]+".e2e.test")
	refused := func() error { return g.refuses("granted.e2e.test") }
	within(t, time.Minute, refused)
	n := 30
	if full() {
		n = 1000
	}
	var given, taken []time.Duration
	grant := &gatewayv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: to, Name: "grant"}, Spec: gatewayv1.ReferenceGrantSpec{
		From: []gatewayv1.ReferenceGrantFrom{{Group: gatewayv1.GroupName, Kind: "TLSRoute", Namespace: gatewayv1.Namespace(g.namespace)}},
		To:   []gatewayv1.ReferenceGrantTo{{Kind: "Service"}},
	}}
	for range n {
		start := time.Now()
		o := grant.DeepCopy()
		if err := api.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		within(t, 2*time.Minute, func() error { return g.answers("granted.e2e.test", "there") })
		given = append(given, time.Since(start))

		start = time.Now()
		if err := api.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		within(t, 2*time.Minute, refused)
		taken = append(taken, time.Since(start))
		for range 5 { // and it stays so
			if err := refused(); err != nil {
				t.Fatalf("after it was refused once: %v", err)
			}
		}
	}
	for what, times := range map[string][]time.Duration{"given": given, "taken": taken} {
		slices.Sort(times)
		ms := time.Millisecond
		t.Logf("%d grants %s, from the write to its effect: min %v, median %v, p99 %v, max %v", n, what,
			times[0].Round(ms), times[n/2].Round(ms), times[n*99/100].Round(ms), times[n-1].Round(ms))
	}
	l.end(t)
}

// refuses tells whether a name leads to no backend.
func (g *gateway) refuses(sni string) error {
	pod, err := g.once(sni, 100)
	if err == nil {
		return fmt.Errorf("%s leads to pod %s", sni, pod)
	}
	// The listener is there all the time.
	if f := (failure{}); !errors.As(err, &f) || f.step == "connect" {
		return err
	}
	return nil
}
