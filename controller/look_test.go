// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// TestWhatAUserSeesOfAClusterIsExplained looks at routes with the rights of an
// administrator, and with those of a user who may read everything but Secrets.
func TestWhatAUserSeesOfAClusterIsExplained(t *testing.T) {
	w := newWorld(t)
	w.keyPair("www", "www.example.com")
	w.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: NS}
spec:
  gatewayClassName: CLASS
  listeners:
  - {name: good, protocol: TLS, port: 443, hostname: www.example.com, tls: {certificateRefs: [{name: www}]}}
  - {name: bad, protocol: TLS, port: 444, hostname: www.example.com, tls: {certificateRefs: [{name: missing}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: redis, namespace: NS}
spec:
  parentRefs: [{name: gw}]
  hostnames: [www.example.com]
  rules: [{backendRefs: [{name: redis, port: 6379}]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader-NS}
rules:
- {apiGroups: ["", gateway.networking.k8s.io, sluice.dev], resources: [namespaces, services, gatewayclasses, gatewayconfigs, gateways, listenersets, tcproutes, tlsroutes, httproutes, grpcroutes, udproutes, referencegrants, backendtlspolicies], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: reader-NS}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader-NS}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: reader}]
`)
	reader, err := server.User("reader")
	w.must(err)
	for _, c := range []struct {
		who     string
		missing bool // the listener whose Secret does not exist is known not to be served
	}{{"admin", true}, {"reader", false}} {
		config := server.Config()
		if c.who == "reader" {
			config = reader
		}
		var seen *translate.Translation
		w.until(c.who+" sees the route", func() string {
			if seen, err = controller.Look(t.Context(), config, w.ns); err != nil {
				return err.Error() // rights take a moment
			}
			return ""
		})
		var route *translate.RouteView
		for _, v := range seen.Routes() {
			if v.Object.Namespace == w.ns {
				route = &v
			}
		}
		if route == nil || len(route.Parents) != 1 || len(route.Parents[0].Listeners) != 2 {
			t.Fatalf("%s sees %+v", c.who, route)
		}
		for _, l := range route.Parents[0].Listeners {
			if !l.Attached || (l.NotServed != "") != (c.missing && l.Name == "bad") {
				t.Errorf("%s: listener %+v", c.who, l)
			}
		}
		if problems := strings.Join(route.Problems, "\n"); !strings.Contains(problems, "redis does not exist") {
			t.Errorf("%s: problems %q, want that the Service does not exist", c.who, problems)
		}
	}

	// Statuses are those that the cluster has, whatever a translation would say.
	var gw gwv1.Gateway
	w.must(root.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: "gw"}, &gw))
	stored := metav1.Condition{Type: "Accepted", Status: metav1.ConditionFalse, Reason: "Stored", Message: "as it is stored", LastTransitionTime: metav1.Now().Rfc3339Copy()}
	gw.Status.Conditions = []metav1.Condition{stored}
	w.must(root.Status().Update(t.Context(), &gw))
	r, statuses, err := controller.Statuses(t.Context(), reader, w.ns)
	w.must(err)
	found := false
	for _, s := range statuses {
		if s.Kind == "Gateway" && s.Namespace == w.ns {
			found = len(s.Gateway.Conditions) == 1 && s.Gateway.Conditions[0].Message == stored.Message
		}
	}
	if !found {
		t.Errorf("no Gateway with the status that is stored in %+v", statuses)
	}
	if !slices.ContainsFunc(r.Gateways, func(g *gwv1.Gateway) bool { return g.Namespace == w.ns && len(g.Spec.Listeners) == 2 }) {
		t.Errorf("no Gateway in %+v", r.Gateways)
	}
}
