// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/endpoints"
)

// backend is a port of a Service with its endpoints.
type backend struct {
	config config.Backend
	// protocol is why HTTP cannot be spoken with it.
	protocol verdict
	// warning says why it has no endpoints.
	warning string
	// clear says what is wrong with it for those whose bytes are in the clear.
	clear string
}

// resolveL4 resolves the backends of a TCPRoute, TLSRoute or UDPRoute.
func (t *translator) resolveL4(r *route) {
	for _, ref := range r.l4 {
		b, v := t.resolve(r, ref.BackendObjectReference)
		weight := value(ref.Weight, 1)
		r.backends = append(r.backends, config.BackendRef{Backend: b, Weight: int(weight)})
		if !v.ok() {
			v.message += r.shareText(weight)
			r.refs = append(r.refs, v)
		}
	}
	if len(r.backends) > 0 && !slices.ContainsFunc(r.backends, func(b config.BackendRef) bool { return b.Weight > 0 }) {
		r.warn("every backendRef has weight 0; " + r.lost())
	}
}

// udp tells whether the route carries datagrams.
func (r *route) udp() bool { return r.kind == "UDPRoute" }

// carries is what the route carries, in words.
func (r *route) carries() string {
	if r.udp() {
		return "datagrams"
	}
	return "connections"
}

// lost says what becomes of what has nowhere to go.
func (r *route) lost() string {
	switch {
	case r.udp():
		return "datagrams are refused"
	case r.http != nil:
		return "requests get status 503"
	}
	return "connections are reset"
}

// shareText says what becomes of the share of a reference that leads nowhere.
func (r *route) shareText(weight int32) string {
	switch {
	case weight == 0:
		return ""
	case r.udp():
		return "; its share of datagrams is refused"
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
	use := Reference{r.key(), Key{"Service", to.namespace, to.name}}
	if !t.permitted(use) {
		return "", verdict{string(gwv1.RouteReasonRefNotPermitted), use.forbidden()}
	}
	r.targets = append(r.targets, to)
	service := t.services[to]
	if service == nil && ref.Port != nil && t.assume(use) {
		key := fmt.Sprintf("%s:%d", to, *ref.Port)
		t.backends[key] = &backend{config: config.Backend{Name: key}}
		return key, verdict{}
	} else if service == nil {
		return "", verdict{string(gwv1.RouteReasonBackendNotFound), t.in.absent(use.To, "create it, or correct the name in backendRefs")}
	}
	if ref.Port == nil {
		return "", verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"backendRef to Service %s has no port; %s", to, portsText(service))}
	}
	want := corev1.ProtocolTCP
	if r.udp() {
		want = corev1.ProtocolUDP
	}
	port := servicePort(service, *ref.Port, want)
	if port == nil {
		return "", verdict{string(gwv1.RouteReasonBackendNotFound), fmt.Sprintf(
			"Service %s has no port %d; %s", to, *ref.Port, portsText(service))}
	}
	if p := cmp.Or(port.Protocol, corev1.ProtocolTCP); p != want {
		return "", verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"port %d of Service %s has protocol %s; a %s needs one with protocol %s", *ref.Port, to, p, r.kind, want)}
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName && !t.alone() {
		return "", verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
			"Service %s has type ExternalName, which would lead past ReferenceGrants; use a Service with an EndpointSlice of addressType FQDN", to)}
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName && t.Partial {
		r.warn(fmt.Sprintf("Service %s has type ExternalName, which is served from a folder and refused in a cluster", to))
	}
	key := fmt.Sprintf("%s:%d", to, *ref.Port)
	if r.udp() {
		key += "/udp"
	}
	b := t.backends[key]
	if b == nil {
		b = t.newBackend(key, service, port)
		t.backends[key] = b
	}
	if r.http != nil && !b.protocol.ok() {
		return "", b.protocol
	}
	if b.warning != "" {
		r.warn(b.warning + "; " + r.lost())
	}
	if r.inTheClear() {
		r.warn(b.clear)
	}
	if !slices.Contains(r.resolved, key) {
		r.resolved = append(r.resolved, key)
	}
	return key, verdict{}
}

// servicePort returns a port of a Service by number: the one with the protocol
// where TCP and UDP share the number.
func servicePort(s *corev1.Service, port gwv1.PortNumber, protocol corev1.Protocol) *corev1.ServicePort {
	var other *corev1.ServicePort
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		switch {
		case p.Port != port:
		case cmp.Or(p.Protocol, corev1.ProtocolTCP) == protocol:
			return p
		default:
			other = p
		}
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName && len(s.Spec.Ports) == 0 {
		return &corev1.ServicePort{Port: port, Protocol: protocol} // such a Service needs no ports
	}
	return other
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
	if port.Protocol != corev1.ProtocolUDP { // nobody makes TLS, or HTTP, of datagrams
		t.readProtocol(b, s, port)
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		host := strings.ToLower(strings.TrimSuffix(s.Spec.ExternalName, "."))
		if host == "" {
			b.warning = fmt.Sprintf("Service %s has type ExternalName without externalName", nameOf(s))
			return b
		}
		b.config.Endpoints = []config.Endpoint{{Host: host, Port: uint16(port.Port)}}
		return b
	}
	service := serviceOf(s, port)
	if t.ByNode {
		b.config.Service = &service
		return b
	}
	b.config.Endpoints, b.warning = endpoints.Select(service, t.slices[nameOf(s)], endpoints.Place{})
	return b
}

// readProtocol finds out what a Service port speaks: the policy that holds for
// it, and its appProtocol.
func (t *translator) readProtocol(b *backend, s *corev1.Service, port *corev1.ServicePort) {
	policy := t.policyOf(nameOf(s), port)
	if policy != nil {
		b.config.TLS = &policy.tls
		if policy.tls.Refused != "" {
			b.clear = fmt.Sprintf("%s; nothing is sent to port %d of Service %s", policy.tls.Refused, port.Port, nameOf(s))
		}
	}
	switch p := value(port.AppProtocol, ""); p {
	case "https", "HTTPS":
		if policy == nil {
			b.clear = fmt.Sprintf("port %d of Service %s has appProtocol %s and gets plain text; add a BackendTLSPolicy to speak TLS with it",
				port.Port, nameOf(s), p)
		}
	case "kubernetes.io/h2c":
		b.config.Protocol = "h2c"
	case "kubernetes.io/ws":
		b.config.Protocol = "ws"
	case "kubernetes.io/wss":
		b.config.Protocol = "ws"
		if policy == nil {
			b.protocol = verdict{string(gwv1.RouteReasonUnsupportedProtocol), fmt.Sprintf(
				"port %d of Service %s has appProtocol %s, which needs TLS to the backend; add a BackendTLSPolicy that says how to verify it",
				port.Port, nameOf(s), p)}
		}
	}
}

// serviceOf says where the endpoints of a Service port are found. An
// EndpointSlice without a port number means the Service's targetPort.
func serviceOf(s *corev1.Service, port *corev1.ServicePort) config.Service {
	number := port.Port
	if port.TargetPort.Type == intstr.Int && port.TargetPort.IntVal != 0 {
		number = port.TargetPort.IntVal
	}
	return config.Service{Namespace: s.Namespace, Name: s.Name, Port: port.Name, Number: uint16(number), UDP: port.Protocol == corev1.ProtocolUDP,
		Local: value(s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal}
}
