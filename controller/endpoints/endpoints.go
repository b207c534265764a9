// SPDX-License-Identifier: Apache-2.0

// Package endpoints chooses among the endpoints of a Service: pure, EndpointSlices
// in, addresses out, as discovery.k8s.io/v1 and kube-proxy define it.
package endpoints

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// Place is where connections come from; "" is unknown, and prefers nothing.
type Place struct {
	Node, Zone string
}

// Select returns the usable endpoints of a Service port, of those on the node
// itself where the Service wants no others (internalTrafficPolicy Local): the
// ready ones, or else those that still serve while they terminate. Of those it
// takes the ones whose hints name the node, else the zone, when every one has
// hints (trafficDistribution). Sorted, each once.
//
// Without any it says why. in are the EndpointSlices of the Service; they are
// only read.
func Select(s config.Service, in []*discoveryv1.EndpointSlice, at Place) (usable []config.Endpoint, why string) {
	var ready, terminating []candidate
	var portNames []string
	unready, elsewhere := 0, false
	for _, slice := range in {
		number, ok := portNumber(slice, s)
		if !ok {
			for _, p := range slice.Ports {
				portNames = append(portNames, fmt.Sprintf("%q", deref(p.Name, "")))
			}
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			host, ok := hostOf(slice.AddressType, e)
			if !ok {
				continue
			}
			c := candidate{config.Endpoint{Host: host, Port: number}, e}
			isReady := deref(e.Conditions.Ready, true)
			switch {
			case !isReady && (!deref(e.Conditions.Serving, false) || !deref(e.Conditions.Terminating, false)):
				unready++
			case s.Local && at.Node != "" && deref(e.NodeName, "") != at.Node:
				elsewhere = true
			case isReady:
				ready = append(ready, c)
			default:
				terminating = append(terminating, c)
			}
		}
	}
	chosen := ready
	if len(chosen) == 0 {
		chosen = terminating
	}
	for _, c := range near(chosen, at) {
		usable = append(usable, c.Endpoint)
	}
	slices.SortFunc(usable, func(a, b config.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
	usable = slices.Compact(usable)
	of := fmt.Sprintf("Service %s/%s", s.Namespace, s.Name)
	if s.Port != "" {
		of += fmt.Sprintf(" port %q", s.Port)
	}
	switch {
	case len(usable) > 0:
		return usable, ""
	case elsewhere:
		return nil, of + " has internalTrafficPolicy Local and no endpoint on this node"
	case len(in) == 0:
		return nil, fmt.Sprintf("%s has no EndpointSlice with label %s: %s", of, discoveryv1.LabelServiceName, s.Name)
	case unready > 0:
		return nil, fmt.Sprintf("%s: none of %d endpoints is ready", of, unready)
	case len(portNames) > 0:
		slices.Sort(portNames)
		return nil, fmt.Sprintf("%s: its EndpointSlices have no port named %q, as the Service's is, only %s",
			of, s.Port, strings.Join(slices.Compact(portNames), ", "))
	}
	return nil, of + " has no endpoints"
}

type candidate struct {
	config.Endpoint
	of *discoveryv1.Endpoint
}

func (c candidate) hintsNode(node string) bool {
	return c.of.Hints != nil && slices.ContainsFunc(c.of.Hints.ForNodes, func(h discoveryv1.ForNode) bool { return h.Name == node })
}

func (c candidate) hintsZone(zone string) bool {
	return c.of.Hints != nil && slices.ContainsFunc(c.of.Hints.ForZones, func(h discoveryv1.ForZone) bool { return h.Name == zone })
}

// near keeps the endpoints that are meant for a place.
func near(in []candidate, at Place) []candidate {
	if at.Node == "" {
		return in
	}
	keep := func(wanted func(candidate) bool) []candidate {
		return slices.DeleteFunc(slices.Clone(in), func(c candidate) bool { return !wanted(c) })
	}
	all := func(hinted func(*discoveryv1.EndpointHints) bool) bool {
		return !slices.ContainsFunc(in, func(c candidate) bool { return c.of.Hints == nil || !hinted(c.of.Hints) })
	}
	if all(func(h *discoveryv1.EndpointHints) bool { return len(h.ForNodes) > 0 }) {
		if local := keep(func(c candidate) bool { return c.hintsNode(at.Node) }); len(local) > 0 {
			return local
		}
	}
	if at.Zone != "" && all(func(h *discoveryv1.EndpointHints) bool { return len(h.ForZones) > 0 }) {
		if local := keep(func(c candidate) bool { return c.hintsZone(at.Zone) }); len(local) > 0 {
			return local
		}
	}
	return in
}

// portNumber returns the number of the Service's port in a slice. They belong
// together by name; a slice port without number stands for every port.
func portNumber(slice *discoveryv1.EndpointSlice, s config.Service) (uint16, bool) {
	want := corev1.ProtocolTCP
	if s.UDP {
		want = corev1.ProtocolUDP
	}
	for _, p := range slice.Ports {
		if deref(p.Name, "") != s.Port || deref(p.Protocol, corev1.ProtocolTCP) != want {
			continue
		}
		number := int32(s.Number)
		if p.Port != nil {
			number = *p.Port
		}
		if number < 1 || number > 65535 {
			return 0, false
		}
		return uint16(number), true
	}
	return 0, false
}

// hostOf returns the host of an endpoint. Only the first address of one has a
// meaning (discovery.k8s.io/v1, Endpoint.addresses).
func hostOf(typ discoveryv1.AddressType, e *discoveryv1.Endpoint) (string, bool) {
	if len(e.Addresses) == 0 {
		return "", false
	}
	host := e.Addresses[0]
	if typ == discoveryv1.AddressTypeFQDN {
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		return host, host != ""
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return "", false
	}
	return ip.Unmap().String(), true
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
