// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// backend is a port of a Service with its endpoints.
type backend struct {
	config config.Backend
	// protocol is why HTTP cannot be spoken with it.
	protocol verdict
	// warning says why it has no endpoints.
	warning string
}

// resolveL4 resolves the backends of a TCPRoute or TLSRoute.
func (t *translator) resolveL4(r *route) {
	for _, ref := range r.l4 {
		b, v := t.resolve(r, ref.BackendObjectReference)
		weight := value(ref.Weight, 1)
		r.backends = append(r.backends, config.BackendRef{Backend: b, Weight: int(weight)})
		if !v.ok() {
			v.message += shareText(weight)
			r.refs = append(r.refs, v)
		}
	}
	if len(r.backends) > 0 && !slices.ContainsFunc(r.backends, func(b config.BackendRef) bool { return b.Weight > 0 }) {
		r.warn("every backendRef has weight 0; connections are reset")
	}
}

// shareText says what becomes of the share of a reference that leads nowhere.
func shareText(weight int32) string {
	if weight == 0 {
		return ""
	}
	return "; its share of connections is reset"
}

func (r *route) warn(message string) {
	if message != "" && !slices.Contains(r.warnings, message) {
		r.warnings = append(r.warnings, message)
	}
}

// resolve finds the backend that a route refers to. It returns the name of it
// in the snapshot, "" with the reason when there is none.
func (t *translator) resolve(r *route, ref gwv1.BackendObjectReference) (string, verdict) {
	group, kind := value(ref.Group, ""), value(ref.Kind, "Service")
	if group != "" || kind != "Service" {
		return "", verdict{string(gwv1.RouteReasonInvalidKind), fmt.Sprintf(
			"backendRef %q has kind %s of group %q; only Service of group \"\" is supported", ref.Name, kind, group)}
	}
	to := name{string(value(ref.Namespace, gwv1.Namespace(r.object.GetNamespace()))), string(ref.Name)}
	use := reference{fromKind: r.kind, fromNamespace: r.object.GetNamespace(), toKind: "Service", to: to}
	if !t.permitted(use) {
		return "", verdict{string(gwv1.RouteReasonRefNotPermitted), use.forbidden()}
	}
	service := t.services[to]
	if service == nil {
		return "", verdict{string(gwv1.RouteReasonBackendNotFound), fmt.Sprintf("Service %s does not exist", to)}
	}
	if ref.Port == nil {
		return "", verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"backendRef to Service %s has no port; %s", to, portsText(service))}
	}
	port := servicePort(service, *ref.Port)
	if port == nil {
		return "", verdict{string(gwv1.RouteReasonBackendNotFound), fmt.Sprintf(
			"Service %s has no port %d; %s", to, *ref.Port, portsText(service))}
	}
	if p := port.Protocol; p != "" && p != corev1.ProtocolTCP {
		return "", verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"port %d of Service %s has protocol %s; only TCP is supported", *ref.Port, to, p)}
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName && !t.alone() {
		return "", verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"Service %s has type ExternalName, which would lead past ReferenceGrants; use a Service with an EndpointSlice of addressType FQDN", to)}
	}
	r.targets = append(r.targets, to)
	if v := t.backendTLS(r, to, port); !v.ok() {
		return "", v
	}
	key := fmt.Sprintf("%s:%d", to, *ref.Port)
	b := t.backends[key]
	if b == nil {
		b = t.newBackend(key, service, port)
		t.backends[key] = b
	}
	if r.http != nil && !b.protocol.ok() {
		return "", b.protocol
	}
	r.warn(b.warning)
	return key, verdict{}
}

func servicePort(s *corev1.Service, port gwv1.PortNumber) *corev1.ServicePort {
	for i := range s.Spec.Ports {
		if s.Spec.Ports[i].Port == port {
			return &s.Spec.Ports[i]
		}
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.Ports) == 0 {
		return &corev1.ServicePort{Port: port} // such a Service needs no ports
	}
	return nil
}

func portsText(s *corev1.Service) string {
	var all []string
	for _, p := range s.Spec.Ports {
		all = append(all, fmt.Sprint(p.Port))
	}
	if len(all) == 0 {
		return "it has none"
	}
	return "it has " + strings.Join(all, ", ")
}

// newBackend gathers the endpoints of a Service port.
func (t *translator) newBackend(key string, s *corev1.Service, port *corev1.ServicePort) *backend {
	b := &backend{config: config.Backend{Name: key}}
	switch p := value(port.AppProtocol, ""); p {
	case "kubernetes.io/h2c":
		b.config.Protocol = "h2c"
	case "kubernetes.io/ws":
		b.config.Protocol = "ws"
	case "kubernetes.io/wss":
		b.protocol = verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"port %d of Service %s has appProtocol %s, which needs TLS to the backend; this version does not do that", port.Port, nameOf(s), p)}
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		host := strings.ToLower(strings.TrimSuffix(s.Spec.ExternalName, "."))
		if host == "" {
			b.warning = fmt.Sprintf("Service %s has type ExternalName without externalName; connections are reset", nameOf(s))
			return b
		}
		b.config.Endpoints = []config.Endpoint{{Host: host, Port: uint16(port.Port)}}
		return b
	}
	b.config.Endpoints, b.warning = t.endpoints(s, port)
	if b.warning != "" {
		b.warning += "; connections are reset"
	}
	return b
}

// endpoints returns the usable endpoints of a Service port, ready ones, or
// else those that still serve while they terminate. Without any it says why.
func (t *translator) endpoints(s *corev1.Service, port *corev1.ServicePort) ([]config.Endpoint, string) {
	slicesOf := t.slices[nameOf(s)]
	var ready, terminating []config.Endpoint
	var portNames []string
	unready := 0
	for _, slice := range slicesOf {
		number, ok := slicePort(slice, port)
		if !ok {
			for _, p := range slice.Ports {
				portNames = append(portNames, fmt.Sprintf("%q", value(p.Name, "")))
			}
			continue
		}
		for _, e := range slice.Endpoints {
			host, ok := hostOf(slice.AddressType, e)
			if !ok {
				continue
			}
			endpoint := config.Endpoint{Host: host, Port: number}
			switch {
			case value(e.Conditions.Ready, true):
				ready = append(ready, endpoint)
			case value(e.Conditions.Serving, false) && value(e.Conditions.Terminating, false):
				terminating = append(terminating, endpoint)
			default:
				unready++
			}
		}
	}
	usable := ready
	if len(usable) == 0 {
		usable = terminating
	}
	slices.SortFunc(usable, compareEndpoints)
	usable = slices.Compact(usable)
	at := fmt.Sprintf("Service %s port %d", nameOf(s), port.Port)
	switch {
	case len(usable) > 0:
		return usable, ""
	case len(slicesOf) == 0:
		return nil, fmt.Sprintf("%s has no EndpointSlice with label %s: %s", at, discoveryv1.LabelServiceName, s.Name)
	case unready > 0:
		return nil, fmt.Sprintf("%s: none of %d endpoints is ready", at, unready)
	case len(portNames) > 0:
		slices.Sort(portNames)
		return nil, fmt.Sprintf("%s: its EndpointSlices have no port named %q, as the Service's is, only %s",
			at, port.Name, strings.Join(slices.Compact(portNames), ", "))
	}
	return nil, at + " has no endpoints"
}

func compareEndpoints(a, b config.Endpoint) int {
	if a.Host != b.Host {
		return strings.Compare(a.Host, b.Host)
	}
	return int(a.Port) - int(b.Port)
}

// slicePort returns the number of a Service port in a slice. They belong
// together by name; a slice port without number stands for every port, where
// the Service's targetPort says which.
func slicePort(s *discoveryv1.EndpointSlice, port *corev1.ServicePort) (uint16, bool) {
	for _, p := range s.Ports {
		if value(p.Name, "") != port.Name || value(p.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP {
			continue
		}
		number := port.Port
		switch {
		case p.Port != nil:
			number = *p.Port
		case port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal != 0:
			number = port.TargetPort.IntVal
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
func hostOf(typ discoveryv1.AddressType, e discoveryv1.Endpoint) (string, bool) {
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
