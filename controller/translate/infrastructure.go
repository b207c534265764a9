// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Infrastructure is the Service that a cluster makes for a Gateway, beside it
// in its namespace and owned by it (GEP-1762). A Gateway has one when a load
// balancer gives it its address, or when it has spec.infrastructure labels or
// annotations, which are for the objects made for it.
type Infrastructure struct {
	// Keep says that what there is stays as it is: nothing is known of what the
	// Gateway should have, because its class is not accepted, or there is a
	// Service of somebody else with the name. The other fields are empty then.
	Keep bool `json:"keep,omitempty"`
	// Owner is the uid of the Gateway.
	Owner types.UID `json:"owner,omitempty"`
	// Service is the name of the Service.
	Service string `json:"service,omitempty"`
	// LoadBalancer gives it type LoadBalancer, and Class is its
	// spec.loadBalancerClass if not "".
	LoadBalancer bool   `json:"loadBalancer,omitempty"`
	Class        string `json:"class,omitempty"`
	// TrafficPolicy is its spec.externalTrafficPolicy if not "".
	TrafficPolicy corev1.ServiceExternalTrafficPolicy `json:"trafficPolicy,omitempty"`
	// Labels and Annotations are those that it must have; others stay.
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Ports are those of the listeners, by number.
	Ports []InfrastructurePort `json:"ports,omitempty"`
	// Endpoints are where the Service leads to, as it can have no selector: pods
	// of another namespace are none of its own. They are the addresses of the
	// Gateway, or all nodes' where it listens on those.
	Endpoints []netip.Addr `json:"endpoints,omitempty"`
	// Nodes are the nodes that have an endpoint, as far as that is known. Only
	// those endpoints are there for traffic policy Local.
	Nodes map[netip.Addr]string `json:"nodes,omitempty"`
}

// InfrastructurePort is a port of the Service and of its endpoints.
type InfrastructurePort struct {
	Port     int32           `json:"port"`
	Protocol corev1.Protocol `json:"protocol"`
}

// infrastructure is what to make for a Gateway, nil for nothing.
func (t *translator) infrastructure(g *gateway) *Infrastructure {
	spec := g.object.Spec.Infrastructure
	switch {
	case t.alone():
		return nil
	case !g.class.ok():
		return &Infrastructure{Keep: true}
	case !g.balanced() && (spec == nil || len(spec.Labels) == 0 && len(spec.Annotations) == 0):
		return nil
	case t.foreignService(g):
		return &Infrastructure{Keep: true}
	}
	out := &Infrastructure{Owner: g.object.UID, Service: g.serviceName(), LoadBalancer: g.balanced(), Labels: map[string]string{}, Annotations: map[string]string{}}
	if g.balanced() {
		out.Class = value(g.params.loadBalancer.Class, "")
		out.TrafficPolicy = value(g.params.loadBalancer.ExternalTrafficPolicy, "")
		maps.Copy(out.Annotations, g.params.loadBalancer.Annotations)
	}
	if spec != nil {
		for k, v := range spec.Labels {
			out.Labels[string(k)] = string(v)
		}
		for k, v := range spec.Annotations {
			out.Annotations[string(k)] = string(v)
		}
	}
	out.Labels[gwv1.GatewayNameLabelKey] = shortened(g.name.name, validation.LabelValueMaxLength)
	out.Labels[gwv1.GatewayClassNameLabelKey] = shortened(string(g.object.Spec.GatewayClassName), validation.LabelValueMaxLength)
	for _, l := range g.listeners {
		p := InfrastructurePort{l.spec.Port, corev1.ProtocolTCP}
		if l.spec.Protocol == gwv1.UDPProtocolType {
			p.Protocol = corev1.ProtocolUDP
		}
		if !slices.Contains(out.Ports, p) {
			out.Ports = append(out.Ports, p)
		}
	}
	out.Endpoints = slices.Clone(g.addresses)
	if g.everywhere() {
		out.Endpoints = slices.SortedFunc(slices.Values(t.NodeAddresses), netip.Addr.Compare)
	}
	for _, a := range out.Endpoints {
		if n := t.NodeNames[a]; n != "" {
			if out.Nodes == nil {
				out.Nodes = map[netip.Addr]string{}
			}
			out.Nodes[a] = n
		}
	}
	slices.SortFunc(out.Ports, func(a, b InfrastructurePort) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return out
}

// serviceName is "gateway-class" as GEP-1762 has it, where a Service can have
// that name.
func (g *gateway) serviceName() string {
	s := g.name.name + "-" + string(g.object.Spec.GatewayClassName)
	if len(validation.IsDNS1035Label(s)) > 0 {
		sum := sha256.Sum256([]byte(s))
		return "gateway-" + hex.EncodeToString(sum[:10])
	}
	return s
}

// shortened is s, or when that is longer than most a beginning of it that a
// hash makes unique.
func shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	end := "-" + hex.EncodeToString(sum[:5])
	return strings.TrimRight(s[:most-len(end)], "-.") + end
}

// service is the Service of the Gateway, nil while there is none. foreign says
// that somebody else made one under its name.
func (t *translator) service(g *gateway) (s *corev1.Service, foreign bool) {
	s = t.services[name{g.namespace, g.serviceName()}]
	if s == nil {
		return nil, false
	}
	if !slices.ContainsFunc(s.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.Kind == "Gateway" && r.UID == g.object.UID && value(r.Controller, false)
	}) {
		return nil, true
	}
	return s, false
}

func (t *translator) foreignService(g *gateway) bool {
	_, foreign := t.service(g)
	return foreign
}

// noteForeignServices tells Gateways that ask for labels and annotations why
// nothing has them.
func (t *translator) noteForeignServices() {
	for _, g := range t.gateways {
		if spec := g.object.Spec.Infrastructure; !t.alone() && spec != nil && len(spec.Labels)+len(spec.Annotations) > 0 && t.foreignService(g) {
			g.notes = append(g.notes, "spec.infrastructure is not honored: "+g.foreignText())
		}
	}
}

// unmade says why the Service of the Gateway is not what it should be.
func (g *gateway) unmade(s snapshotState) string {
	why := s.Unmade[Key{"Gateway", g.namespace, g.name.name}]
	if why == "" {
		return ""
	}
	return fmt.Sprintf("Service %s/%s is not as it should be: %s", g.namespace, g.serviceName(), why)
}

func (g *gateway) foreignText() string {
	return fmt.Sprintf("Service %s/%s is not the Gateway's; delete or rename it", g.namespace, g.serviceName())
}

// balancerAddresses are those that the load balancer gave.
func (t *translator) balancerAddresses(g *gateway) []gwv1.GatewayStatusAddress {
	s, _ := t.service(g)
	if s == nil {
		return nil
	}
	var out []gwv1.GatewayStatusAddress
	for _, in := range s.Status.LoadBalancer.Ingress {
		typ, address := gwv1.IPAddressType, in.IP
		if address == "" {
			typ, address = gwv1.HostnameAddressType, in.Hostname
		}
		if address != "" && len(out) < maxStatusAddresses {
			out = append(out, gwv1.GatewayStatusAddress{Type: &typ, Value: address})
		}
	}
	slices.SortFunc(out, func(a, b gwv1.GatewayStatusAddress) int { return cmp.Compare(a.Value, b.Value) })
	return out
}
