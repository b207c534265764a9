// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// TestCAsOfConfigMapsAreFollowed takes CA certificates away, brings them back
// and breaks them, for the clients of a Gateway and for its backends.
func TestCAsOfConfigMapsAreFollowed(t *testing.T) {
	w := newWorld(t)
	bundle := string(w.keyPair("www", "www.example.com"))
	w.apply(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: NS}
spec:
  gatewayClassName: CLASS
  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "", kind: ConfigMap, name: people}]}}}}
  listeners:
  - {name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: www}]}}
  - {name: tcp, protocol: TCP, port: 6379}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: redis, namespace: NS}
spec:
  parentRefs: [{name: gw, sectionName: tcp}]
  rules: [{backendRefs: [{name: redis, port: 6379}]}]
---
apiVersion: v1
kind: Service
metadata: {name: redis, namespace: NS}
spec: {ports: [{port: 6379}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: redis, namespace: NS}
spec:
  targetRefs: [{group: "", kind: Service, name: redis}]
  validation: {hostname: redis.example.com, caCertificateRefs: [{group: "", kind: ConfigMap, name: machines}]}
`)
	w.start("a", nil)
	write := func(name, text string) {
		t.Helper()
		want := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, Data: map[string]string{translate.AuthorityKey: text}}
		if have := want.DeepCopy(); root.Get(t.Context(), client.ObjectKeyFromObject(want), have) == nil {
			have.Data = want.Data
			w.must(root.Update(t.Context(), have))
			return
		}
		w.must(root.Create(t.Context(), want))
	}
	remove := func(name string) {
		t.Helper()
		w.must(root.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}))
	}
	// told waits until listener and policy have these reasons for Accepted, and
	// the nodes as many bundles.
	told := func(step, listener, policy string, bundles int) {
		t.Helper()
		w.until(step, func() string {
			g := get(w, "gw", &gwv1.Gateway{})
			var p gwv1.BackendTLSPolicy
			w.must(root.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: "redis"}, &p))
			got := [2]string{}
			if len(g.Status.Listeners) == 2 {
				got[0] = reason(g.Status.Listeners[0].Conditions)
			}
			if len(p.Status.Ancestors) == 1 {
				got[1] = reason(p.Status.Ancestors[0].Conditions)
			}
			n := -1
			if s := w.part("gw"); s != nil {
				part, err := publication.Decode(s)
				w.must(err)
				n = len(part.Authorities)
			}
			if want := [2]string{listener, policy}; got != want || n != bundles {
				return fmt.Sprintf("Accepted of listener and policy %q with %d bundles, want %q with %d", got, n, want, bundles)
			}
			return ""
		})
	}
	told("without ConfigMaps", "NoValidCACertificate", "NoValidCACertificate", 0)
	write("people", bundle)
	told("with one", "Accepted", "NoValidCACertificate", 1)
	write("machines", bundle)
	told("with both", "Accepted", "Accepted", 2)
	write("machines", "")
	told("with an empty one", "Accepted", "NoValidCACertificate", 1)
	write("machines", bundle)
	remove("people")
	told("with the other one", "NoValidCACertificate", "Accepted", 1)
	write("people", bundle)
	told("with both again", "Accepted", "Accepted", 2)
}

func reason(in []metav1.Condition) string {
	if c := meta.FindStatusCondition(in, "Accepted"); c != nil {
		return c.Reason
	}
	return ""
}
