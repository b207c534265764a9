// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Endpoints, certificates and routes change all the time, all at once: nobody
// is dropped, and each change is served.
func TestChurnDropsNobody(t *testing.T) {
	g := serveGateway(t)
	for i := range g.nodes { // the second makes sure that a change is one
		if err := g.lead(t.Context(), g.nodes[i]); err != nil {
			t.Fatal(err)
		}
	}
	within(t, time.Minute, func() error { return g.answers("endpoints.e2e.test", g.nodes[len(g.nodes)-1]) })

	names := []string{"endpoints.e2e.test", "route.e2e.test"}
	for _, n := range g.nodes {
		names = append(names, n+".e2e.test")
	}
	l := startLoad(t, g, 50, 50, names...)
	var wg sync.WaitGroup
	churn := func(what string, n int, change func(i int) error, served func(i int) error) {
		wg.Go(func() {
			times, err := repeat(n, change, served)
			if err != nil {
				t.Errorf("%s: %v", what, err)
				return
			}
			slices.Sort(times)
			ms := time.Millisecond
			t.Logf("%d %s, from the write to being served: min %v, median %v, p99 %v, max %v", n, what,
				times[0].Round(ms), times[n/2].Round(ms), times[n*99/100].Round(ms), times[n-1].Round(ms))
		})
	}
	pod := func(i int) string { return g.nodes[i%2] }
	churn("endpoint changes", 500,
		func(i int) error { return g.lead(t.Context(), pod(i)) },
		func(i int) error { return g.answers("endpoints.e2e.test", pod(i)) })
	churn("certificate rotations", 100,
		func(i int) error { return g.rotate(t.Context(), int64(100+i)) },
		func(i int) error { return g.shows(int64(100 + i)) })
	churn("route edits", 100,
		func(i int) error { return g.route(t.Context(), pod(i+1)) },
		func(i int) error { return g.answers("route.e2e.test", pod(i+1)) })
	wg.Wait()
	l.end(t)
}

// repeat makes a change and waits until it is served, n times. It returns how
// long each took.
func repeat(n int, change, served func(i int) error) ([]time.Duration, error) {
	var times []time.Duration
	for i := range n {
		start := time.Now()
		if err := change(i); err != nil {
			return nil, err
		}
		for {
			err := served(i)
			if err == nil {
				break
			}
			if time.Since(start) > 2*time.Minute {
				return nil, fmt.Errorf("change %d is not served after %v: %w", i, time.Since(start), err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

// lead makes one pod the only endpoint of Service endpoints.
func (g *gateway) lead(ctx context.Context, pod string) error {
	var p corev1.Pod
	if err := api.Get(ctx, client.ObjectKey{Namespace: g.namespace, Name: pod}, &p); err != nil {
		return err
	}
	port := int32(7000)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: g.namespace, Name: "endpoints", Labels: map[string]string{discoveryv1.LabelServiceName: "endpoints"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{p.Status.PodIP}, NodeName: &p.Spec.NodeName}},
	}
	return write(ctx, slice)
}

// route leads route.e2e.test to the pod of a node.
func (g *gateway) route(ctx context.Context, node string) error {
	o := &gatewayv1.TLSRoute{ObjectMeta: metav1.ObjectMeta{Namespace: g.namespace, Name: "route"}}
	return api.Patch(ctx, o, client.RawPatch("application/merge-patch+json",
		fmt.Appendf(nil, `{"spec":{"rules":[{"backendRefs":[{"name":%q,"port":7000}]}]}}`, node)))
}

// shows tells whether the certificate that is served has a serial number.
func (g *gateway) shows(serial int64) error {
	d := &net.Dialer{Timeout: 10 * time.Second}
	c, err := tls.DialWithDialer(d, "tcp", net.JoinHostPort(g.address, "443"), &tls.Config{ServerName: g.nodes[0] + ".e2e.test", RootCAs: g.roots})
	if err != nil {
		return err
	}
	defer c.Close()
	if got := c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != serial {
		return fmt.Errorf("the certificate is number %d, want %d", got, serial)
	}
	return nil
}
