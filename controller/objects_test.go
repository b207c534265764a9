// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// store is a Gateway with a listener of each kind, with routes and a Service.
const store = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {namespace: NS, name: gw}
spec:
  gatewayClassName: CLASS
  listeners:
  - {name: tls, port: 443, protocol: TLS, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}
  - {name: tcp, port: 6379, protocol: TCP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {namespace: NS, name: web}
spec:
  parentRefs: [{name: gw, sectionName: tls}]
  hostnames: [shop.example]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {namespace: NS, name: redis}
spec:
  parentRefs: [{name: gw, sectionName: tcp}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {namespace: NS, name: web}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: NS, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [192.0.2.7]}]
`

// keyPair puts a certificate into a Secret, and returns its chain.
func (w *world) keyPair(secret string, names ...string) []byte {
	w.Helper()
	return w.keyPairUntil(time.Now().Add(24*time.Hour), secret, names...)
}

// keyPairUntil makes or replaces one that expires then.
func (w *world) keyPairUntil(notAfter time.Time, secret string, names ...string) []byte {
	w.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	w.must(err)
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: notAfter.Add(-48 * time.Hour), NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	w.must(err)
	key, err := x509.MarshalPKCS8PrivateKey(private)
	w.must(err)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	w.mu.Lock()
	w.keys = append(w.keys, key)
	w.mu.Unlock()
	w.putSecret(secret, map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})})
	return chain
}

// putSecret makes or replaces a TLS Secret.
func (w *world) putSecret(name string, data map[string][]byte) {
	w.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, Type: corev1.SecretTypeTLS, Data: data}
	have := &corev1.Secret{}
	err := root.Get(w.Context(), client.ObjectKeyFromObject(s), have)
	switch {
	case client.IgnoreNotFound(err) != nil:
		w.Fatal(err)
	case err != nil:
		w.must(root.Create(w.Context(), s))
	default:
		w.must(root.Update(w.Context(), s))
	}
}

// scan looks for private keys where nobody must tell them.
func (w *world) scan(ctx context.Context) {
	w.Helper()
	texts := map[string][]byte{"the logs": []byte(w.log.String())}
	for _, list := range []client.ObjectList{&eventsv1.EventList{}, &gwv1.GatewayList{}, &gwv1.GatewayClassList{}, &gwv1.TLSRouteList{}, &gwv1.TCPRouteList{}, &gwv1.HTTPRouteList{}, &gwv1.ListenerSetList{}} {
		if err := root.List(ctx, list); err != nil {
			w.Error(err)
			continue
		}
		text, err := json.Marshal(list)
		if err != nil {
			w.Error(err)
		}
		texts[fmt.Sprintf("%T", list)] = text
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range w.keys {
		text := []byte(base64.StdEncoding.EncodeToString(key))
		for where, all := range texts {
			// The first bytes say only which kind of key it is.
			if bytes.Contains(all, text[60:100]) || bytes.Contains(all, key[60:]) {
				w.Errorf("a private key is in %s", where)
			}
		}
	}
}

// condition tells what a condition is short of being as it should.
func condition(all []metav1.Condition, generation int64, typ string, status metav1.ConditionStatus, reason string) string {
	c := meta.FindStatusCondition(all, typ)
	if c == nil {
		return "no condition " + typ
	}
	if c.Status != status || c.Reason != reason || c.ObservedGeneration != generation {
		return fmt.Sprintf("%s is %s (%s, generation %d of %d): %s", typ, c.Status, c.Reason, c.ObservedGeneration, generation, c.Message)
	}
	return ""
}

// gatewayIs tells what the Gateway's Programmed condition is short of.
func (w *world) gatewayIs(name string, status metav1.ConditionStatus, reason gwv1.GatewayConditionReason) string {
	w.Helper()
	g := get(w, name, &gwv1.Gateway{})
	return condition(g.Status.Conditions, g.Generation, "Programmed", status, string(reason))
}

func (w *world) untilProgrammed(name string) {
	w.Helper()
	w.until("Gateway "+name+" to be programmed", func() string { return w.gatewayIs(name, metav1.ConditionTrue, gwv1.GatewayReasonProgrammed) })
}

// message is that of a condition, "" without it.
func message(all []metav1.Condition, typ string) string {
	if c := meta.FindStatusCondition(all, typ); c != nil {
		return c.Message
	}
	return ""
}
