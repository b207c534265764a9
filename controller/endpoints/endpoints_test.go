// SPDX-License-Identifier: Apache-2.0

package endpoints_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/endpoints"
)

func ptr[T any](v T) *T { return &v }

// slice is an EndpointSlice of port 6379 with endpoints on nodes.
func slice(all ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: all,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("redis"), Port: ptr(int32(6379)), Protocol: ptr(corev1.ProtocolTCP)}}}
}

// on is a ready endpoint on a node.
func on(node, address string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{address}, NodeName: &node}
}

func hinted(e discoveryv1.Endpoint, nodes, zones []string) discoveryv1.Endpoint {
	e.Hints = &discoveryv1.EndpointHints{}
	for _, n := range nodes {
		e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n})
	}
	for _, z := range zones {
		e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: z})
	}
	return e
}

func with(e discoveryv1.Endpoint, ready, serving, terminating bool) discoveryv1.Endpoint {
	e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	return e
}

func TestSelect(t *testing.T) {
	redis := config.Service{Namespace: "shop", Name: "redis", Port: "redis", Number: 6379}
	local := redis
	local.Local = true
	here := endpoints.Place{Node: "n1", Zone: "z1"}
	both := slice(on("n1", "10.0.1.1"), on("n2", "10.0.2.1"))
	none := []string(nil)
	for name, c := range map[string]struct {
		service config.Service
		at      endpoints.Place
		in      []*discoveryv1.EndpointSlice
		want    []string
		why     string
	}{
		"all that are ready, sorted and once": {redis, here,
			[]*discoveryv1.EndpointSlice{slice(on("n2", "10.0.2.1")), both}, []string{"10.0.1.1", "10.0.2.1"}, ""},
		"a terminating one does not count beside a ready one": {redis, here,
			[]*discoveryv1.EndpointSlice{slice(with(on("n1", "10.0.1.1"), false, true, true), on("n2", "10.0.2.1"))}, []string{"10.0.2.1"}, ""},
		"one that terminates and serves is better than none": {redis, here,
			[]*discoveryv1.EndpointSlice{slice(with(on("n1", "10.0.1.1"), false, true, true), with(on("n2", "10.0.2.1"), false, false, true))}, []string{"10.0.1.1"}, ""},
		"internalTrafficPolicy Local takes those on the node": {local, here,
			[]*discoveryv1.EndpointSlice{both}, []string{"10.0.1.1"}, ""},
		"internalTrafficPolicy Local takes no others instead": {local, endpoints.Place{Node: "n3"},
			[]*discoveryv1.EndpointSlice{both}, nil, "Service shop/redis port \"redis\" has internalTrafficPolicy Local and no endpoint on this node"},
		"internalTrafficPolicy Local takes one that terminates before it takes none": {local, here,
			[]*discoveryv1.EndpointSlice{slice(with(on("n1", "10.0.1.1"), false, true, true), on("n2", "10.0.2.1"))}, []string{"10.0.1.1"}, ""},
		"without a node there is nothing local": {local, endpoints.Place{},
			[]*discoveryv1.EndpointSlice{both}, []string{"10.0.1.1", "10.0.2.1"}, ""},
		"hints for the node come first": {redis, here,
			[]*discoveryv1.EndpointSlice{slice(hinted(on("n1", "10.0.1.1"), []string{"n1"}, []string{"z1"}), hinted(on("n2", "10.0.2.1"), []string{"n2"}, []string{"z1"}))},
			[]string{"10.0.1.1"}, ""},
		"hints for the zone where no endpoint is meant for the node": {redis, endpoints.Place{Node: "n3", Zone: "z1"},
			[]*discoveryv1.EndpointSlice{slice(hinted(on("n1", "10.0.1.1"), []string{"n1"}, []string{"z1"}), hinted(on("n2", "10.0.2.1"), []string{"n2"}, []string{"z2"}))},
			[]string{"10.0.1.1"}, ""},
		"one endpoint without hints and none count": {redis, here,
			[]*discoveryv1.EndpointSlice{slice(hinted(on("n1", "10.0.1.1"), []string{"n1"}, none), on("n2", "10.0.2.1"))}, []string{"10.0.1.1", "10.0.2.1"}, ""},
		"hints that name another zone only": {redis, endpoints.Place{Node: "n3", Zone: "z3"},
			[]*discoveryv1.EndpointSlice{slice(hinted(on("n1", "10.0.1.1"), none, []string{"z1"}))}, []string{"10.0.1.1"}, ""},
		"no slice": {redis, here, nil, nil, "Service shop/redis port \"redis\" has no EndpointSlice with label kubernetes.io/service-name: redis"},
		"none ready": {redis, here, []*discoveryv1.EndpointSlice{slice(with(on("n1", "10.0.1.1"), false, false, false))}, nil,
			"Service shop/redis port \"redis\": none of 1 endpoints is ready"},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := endpoints.Select(c.service, c.in, c.at)
			var hosts []string
			for _, e := range got {
				hosts = append(hosts, e.Host)
			}
			if diff := cmp.Diff(c.want, hosts); diff != "" {
				t.Errorf("endpoints: -want +got:\n%s", diff)
			}
			if why != c.why {
				t.Errorf("why: %q, want %q", why, c.why)
			}
		})
	}
}
