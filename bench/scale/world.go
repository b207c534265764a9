// SPDX-License-Identifier: Apache-2.0

package main

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
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

const (
	namespace = "sluice-system"
	team      = "shop"
)

// world is what is measured.
type world struct {
	*scale
	server   *apiserver.Server
	client   client.Client
	nodes    []*recorder
	received atomic.Int64 // bytes that the first node got from the API server
}

func newWorld(ctx context.Context, s *scale, server *apiserver.Server) (*world, error) {
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := gwv1.Install(scheme); err != nil {
		return nil, err
	}
	c, err := client.New(server.Config(), client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	w := &world{scale: s, server: server, client: c}
	for _, name := range []string{namespace, team} {
		if err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return nil, err
		}
	}
	return w, c.Create(ctx, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "sluice"},
		Spec: gwv1.GatewayClassSpec{ControllerName: "sluice.dev/gateway-controller"}})
}

// fill makes the objects.
func (w *world) fill(ctx context.Context) error {
	var all []client.Object
	for i := range w.gateways {
		all = append(all, w.certificate(i), w.gateway(i))
	}
	for i := range w.routes {
		n := w.endpoints / w.routes
		if i < w.endpoints%w.routes {
			n++
		}
		all = append(all, w.route(i, 1), w.service(i), w.slice(i, n))
	}
	work := make(chan client.Object)
	errs := make(chan error, 1)
	var workers sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range 16 {
		workers.Go(func() {
			for o := range work {
				if err := w.client.Create(ctx, o); err != nil {
					select {
					case errs <- err:
						cancel()
					default:
					}
				}
			}
		})
	}
	for _, o := range all {
		work <- o
	}
	close(work)
	workers.Wait()
	close(errs)
	return <-errs
}

func metaOf(prefix string, i int) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: team, Name: fmt.Sprintf("%s-%d", prefix, i)}
}

func host(gateway int) string { return fmt.Sprintf("g%d.example.com", gateway) }

func (w *world) gateway(i int) *gwv1.Gateway {
	hostname, mode := gwv1.Hostname("*."+host(i)), gwv1.TLSModeTerminate
	return &gwv1.Gateway{ObjectMeta: metaOf("gateway", i), Spec: gwv1.GatewaySpec{GatewayClassName: "sluice",
		Listeners: []gwv1.Listener{{Name: "tls", Port: 443, Protocol: gwv1.TLSProtocolType, Hostname: &hostname,
			TLS: &gwv1.ListenerTLSConfig{Mode: &mode, CertificateRefs: []gwv1.SecretObjectReference{{Name: gwv1.ObjectName(metaOf("certificate", i).Name)}}}}}}}
}

func (w *world) route(i int, weight int32) *gwv1.TLSRoute {
	port := gwv1.PortNumber(6379)
	g := i % w.gateways
	return &gwv1.TLSRoute{ObjectMeta: metaOf("route", i), Spec: gwv1.TLSRouteSpec{
		CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{Name: gwv1.ObjectName(metaOf("gateway", g).Name)}}},
		Hostnames:       []gwv1.Hostname{gwv1.Hostname(fmt.Sprintf("r%d.%s", i, host(g)))},
		Rules: []gwv1.TLSRouteRule{{BackendRefs: []gwv1.BackendRef{{Weight: &weight,
			BackendObjectReference: gwv1.BackendObjectReference{Name: gwv1.ObjectName(metaOf("service", i).Name), Port: &port}}}}}}}
}

func (w *world) service(i int) *corev1.Service {
	return &corev1.Service{ObjectMeta: metaOf("service", i), Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone,
		Ports: []corev1.ServicePort{{Name: "tcp", Port: 6379}}}}
}

func (w *world) slice(i, n int) *discoveryv1.EndpointSlice {
	name, port, protocol := "tcp", int32(6379), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{ObjectMeta: metaOf("service", i), AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: s.Name}
	for e := range n {
		s.Endpoints = append(s.Endpoints, endpoint(i, e))
	}
	return s
}

func endpoint(i, e int) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 100+e%100, i/250, 1+i%250)}}
}

// certificate makes a new one each time.
func (w *world) certificate(i int) *corev1.Secret {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // no randomness
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host(i)},
		DNSNames: []string{"*." + host(i)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return &corev1.Secret{ObjectMeta: metaOf("certificate", i), Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		corev1.TLSPrivateKeyKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})}}
}
