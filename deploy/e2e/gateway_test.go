// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// objects of a test, in a namespace of its own. Names NODE.e2e.test lead to the
// pod of a node; endpoints.e2e.test and route.e2e.test are for tests to change.
const objects = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: sluice
  listeners:
  - name: tls
    protocol: TLS
    port: 443
    hostname: "*.e2e.test"
    tls: {mode: Terminate, certificateRefs: [{name: certificate}]}
---
apiVersion: v1
kind: Service
metadata: {name: endpoints}
spec: {ports: [{port: 7000}]}
`

const objectsOfNode = `
---
apiVersion: v1
kind: Pod
metadata: {name: @NODE@, labels: {on: @NODE@}}
spec:
  nodeName: @NODE@
  terminationGracePeriodSeconds: 0
  containers:
  - {name: keyedserver, image: "sluice.test/keyedserver:1", imagePullPolicy: Never}
---
apiVersion: v1
kind: Service
metadata: {name: @NODE@}
spec: {selector: {on: @NODE@}, ports: [{port: 7000}]}
`

const route = `
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: @NAME@}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [@NAME@.e2e.test]
  rules: [{backendRefs: [{name: @SERVICE@, port: 7000}]}]
`

// gateway is a Gateway that is programmed, with its pods.
type gateway struct {
	namespace, address string
	nodes              []string
	roots              *x509.CertPool
	authority          *x509.Certificate
	signer             *ecdsa.PrivateKey

	mu   sync.Mutex
	keys [][]byte // PEM, all that its certificates ever had
}

// serveGateway makes a namespace with a Gateway, which goes with the test, on a
// cluster of at least two nodes.
func serveGateway(t *testing.T) *gateway {
	t.Helper()
	return serveGatewayOn(t, 2)
}

func serveGatewayOn(t *testing.T, nodes int) *gateway {
	t.Helper()
	g := &gateway{namespace: strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())), roots: x509.NewCertPool()}
	g.nodes = strings.Fields(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(g.nodes) < nodes {
		t.Fatalf("nodes are %q, want %d", g.nodes, nodes)
	}
	var err error
	if g.signer, g.authority, err = sign(1, nil, nil); err != nil {
		t.Fatal(err)
	}
	g.roots.AddCert(g.authority)

	kubectl(t, "create", "namespace", g.namespace)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", g.namespace, "--timeout=120s") })
	if err := g.rotate(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	text := objects
	for _, n := range g.nodes {
		text += strings.ReplaceAll(objectsOfNode, "@NODE@", n) + strings.NewReplacer("@NAME@", n, "@SERVICE@", n).Replace(route)
	}
	text += strings.NewReplacer("@NAME@", "endpoints", "@SERVICE@", "endpoints").Replace(route)
	text += strings.NewReplacer("@NAME@", "route", "@SERVICE@", g.nodes[0]).Replace(route)
	mustCommand(t, text, "kubectl.sh", "-n", g.namespace, "apply", "-f", "-")

	kubectl(t, "-n", g.namespace, "wait", "--for=condition=Programmed", "--timeout=120s", "gateway/gateway")
	kubectl(t, "-n", g.namespace, "wait", "--for=condition=Ready", "--timeout=120s", "pod", "--all")
	g.address = get(t, g.namespace, "gateway", &gatewayv1.Gateway{}).Status.Addresses[0].Value
	for _, n := range g.nodes {
		within(t, time.Minute, func() error { return g.answers(n+".e2e.test", n) })
	}
	return g
}

// answers tells whether a name is served, by a pod.
func (g *gateway) answers(sni, pod string) error {
	got, err := g.once(sni, 1000)
	if err == nil && got != pod {
		err = fmt.Errorf("%s leads to pod %s, want %s", sni, got, pod)
	}
	return err
}

// sign makes a certificate; by itself without a parent.
func sign(serial int64, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "e2e"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"*.e2e.test"}, BasicConstraintsValid: true,
	}
	if parent == nil {
		template.IsCA, parent, signer = true, template, key
		template.KeyUsage = x509.KeyUsageCertSign
	} else {
		template.Subject.CommonName = "e2e server" // OpenSSL takes one with its issuer's name for self-signed
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return key, certificate, err
}

// rotate puts a new certificate and key into the Secret.
func (g *gateway) rotate(ctx context.Context, serial int64) error {
	key, certificate, err := sign(serial, g.authority, g.signer)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	g.mu.Lock()
	g.keys = append(g.keys, keyPEM)
	g.mu.Unlock()
	return write(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: g.namespace, Name: "certificate"},
		Type:       corev1.SecretTypeTLS,
		Data: map[string][]byte{
			corev1.TLSPrivateKeyKey: keyPEM,
			corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}),
		},
	})
}

// write updates an object, or creates it.
func write(ctx context.Context, o client.Object) error {
	err := api.Update(ctx, o)
	if apierrors.IsNotFound(err) {
		return api.Create(ctx, o)
	}
	return err
}

// holder is the node that has the Gateway's address on a link.
func (g *gateway) holder(t *testing.T) string {
	t.Helper()
	var holder string
	within(t, time.Minute, func() error {
		var holders []string
		for _, n := range g.nodes {
			out, err := command("", "in.sh", n, "ip", "-o", "addr", "show", "to", g.address)
			if err != nil {
				return err
			}
			if out != "" {
				holders = append(holders, n)
			}
		}
		if len(holders) != 1 {
			return fmt.Errorf("%s is on nodes %q, want one", g.address, holders)
		}
		holder = holders[0]
		return nil
	})
	return holder
}
