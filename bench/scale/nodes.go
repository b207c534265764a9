// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/node"
)

// recorder stands where the terminator of a node is.
type recorder struct {
	applied atomic.Pointer[config.Snapshot]
}

func (r *recorder) Apply(s *config.Snapshot) config.Report {
	r.applied.Store(s)
	return r.Report()
}

func (r *recorder) Report() config.Report {
	out := config.Report{Listeners: map[string]string{}}
	for _, l := range r.applied.Load().Listeners {
		out.Listeners[l.Name] = ""
	}
	return out
}

// startNodes starts what the agents of nodes are to the API server.
func (w *world) startNodes(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	stop = func() { cancel(); running.Wait() }
	for i := range w.scale.nodes {
		name := fmt.Sprintf("node-%d", i)
		if err := w.client.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			stop()
			return nil, err
		}
		config := w.server.Config()
		if i == 0 {
			config.Dial = w.count
		}
		source, err := node.New(node.Options{Config: config, Namespace: namespace, Node: name, Identity: name,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)})}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			stop()
			return nil, err
		}
		r := &recorder{}
		w.nodes = append(w.nodes, r)
		running.Go(func() { _ = source.Run(ctx, r); source.Close() })
	}
	return stop, nil
}

// count counts what the first node receives.
func (w *world) count(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &counted{c, &w.received}, err
}

type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// programmed waits until every Gateway is.
func (w *world) programmed(ctx context.Context, c *controller) (time.Duration, error) {
	began, told := time.Now(), time.Now()
	for {
		var list gwv1.GatewayList
		if err := w.client.List(ctx, &list, client.InNamespace(team)); err != nil {
			return 0, err
		}
		done := 0
		for _, g := range list.Items {
			if meta.IsStatusConditionTrue(g.Status.Conditions, string(gwv1.GatewayConditionProgrammed)) {
				done++
			}
		}
		switch {
		case done == w.gateways:
			return time.Since(began), nil
		case time.Since(began) > 15*time.Minute:
			return 0, fmt.Errorf("%d of %d Gateways are Programmed after 15 minutes", done, w.gateways)
		case c.cmd.ProcessState != nil:
			return 0, errors.New("the controller has ended")
		case time.Since(told) > 5*time.Second:
			told = time.Now()
			fmt.Printf("  %s: %d of %d Gateways Programmed; controller %s\n", round(time.Since(began)), done, w.gateways, c.cost())
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// settle waits until the API server has nothing to tell.
func (w *world) settle(ctx context.Context) error {
	for quiet, last := 0, w.received.Load(); quiet < 8; {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		now := w.received.Load()
		if quiet++; now != last {
			quiet, last = 0, now
		}
	}
	return nil
}

// everywhere tells whether every node serves what a test looks for.
func (w *world) everywhere(ok func(*config.Snapshot) bool) func() bool {
	return func() bool {
		return !slices.ContainsFunc(w.nodes, func(r *recorder) bool { return !ok(r.applied.Load()) })
	}
}

// changeEndpoint adds an endpoint to a Service.
func (w *world) changeEndpoint(ctx context.Context, i int) (func() bool, error) {
	var s discoveryv1.EndpointSlice
	if err := w.client.Get(ctx, client.ObjectKeyFromObject(w.slice(i, 0)), &s); err != nil {
		return nil, err
	}
	added := endpoint(i, 99)
	s.Endpoints = append(s.Endpoints, added)
	return w.everywhere(func(s *config.Snapshot) bool {
		b, found := slices.BinarySearchFunc(s.Backends, backendName(i), func(b config.Backend, name string) int { return strings.Compare(b.Name, name) })
		return found && slices.ContainsFunc(s.Backends[b].Endpoints, func(e config.Endpoint) bool { return e.Host == added.Addresses[0] })
	}), w.client.Update(ctx, &s)
}

// changeRoute gives the backend of a route another weight.
func (w *world) changeRoute(ctx context.Context, i int) (func() bool, error) {
	var r gwv1.TLSRoute
	if err := w.client.Get(ctx, client.ObjectKeyFromObject(w.route(i, 0)), &r); err != nil {
		return nil, err
	}
	weight := int32(7)
	r.Spec.Rules[0].BackendRefs[0].Weight = &weight
	name := "TLSRoute/" + team + "/" + r.Name
	return w.everywhere(func(s *config.Snapshot) bool {
		at, found := slices.BinarySearchFunc(s.Routes, name, func(r config.Route, name string) int { return strings.Compare(r.Name, name) })
		return found && s.Routes[at].Backends[0].Weight == 7
	}), w.client.Update(ctx, &r)
}

// changeCertificate renews the certificate of a Gateway.
func (w *world) changeCertificate(ctx context.Context, i int) (func() bool, error) {
	s := w.certificate(i)
	return w.everywhere(func(served *config.Snapshot) bool {
		at, found := slices.BinarySearchFunc(served.Certificates, team+"/"+s.Name, func(c config.Certificate, name string) int { return strings.Compare(c.Name, name) })
		return found && bytes.Contains(served.Certificates[at].Chain, bytes.TrimSpace(s.Data[corev1.TLSCertKey]))
	}), w.client.Update(ctx, s)
}

func backendName(i int) string { return fmt.Sprintf("%s/service-%d:6379", team, i) }
