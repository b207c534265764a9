// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 holds the objects of API group sluice.dev.
//
// +kubebuilder:object:generate=true
// +groupName=sluice.dev
package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go tool controller-gen object crd paths=. output:crd:dir=../../deploy/crds

// GroupName is the API group of Sluice's own kinds.
const GroupName = "sluice.dev"

// GroupVersion is that of the kinds of this package.
var GroupVersion = schema.GroupVersion{Group: GroupName, Version: "v1alpha1"}

// AddToScheme makes the kinds known to a scheme.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &GatewayConfig{}, &GatewayConfigList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// GatewayConfig holds the parameters of a GatewayClass (spec.parametersRef).
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:categories=gateway-api
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.addresses.mode`
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.spec.addresses.pools`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GatewayConfig struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec GatewayConfigSpec `json:"spec,omitzero"`
}

// GatewayConfigList is a list of GatewayConfigs.
//
// +kubebuilder:object:root=true
type GatewayConfigList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []GatewayConfig `json:"items"`
}

// GatewayConfigSpec is what a GatewayConfig asks for.
type GatewayConfigSpec struct {
	// addresses says which addresses Gateways of the class have.
	//
	// +optional
	Addresses Addresses `json:"addresses,omitzero"`
}

// Addresses says which addresses Gateways of a class have.
//
// +kubebuilder:validation:XValidation:message="pools are required with mode Pool",rule="self.mode != 'Pool' || (has(self.pools) && self.pools.size() > 0)"
// +kubebuilder:validation:XValidation:message="loadBalancer can only be set with mode LoadBalancer",rule="self.mode == 'LoadBalancer' || !has(self.loadBalancer)"
type Addresses struct {
	// mode says where a Gateway gets its address from that does not name one in
	// spec.addresses:
	//
	//   - Node: it has the addresses of the nodes, and shares them with other
	//     Gateways.
	//   - Pool: it gets an address of its own out of pools, one of each address
	//     family that they have, and keeps it. One node at a time holds it.
	//   - LoadBalancer: a Service of type LoadBalancer is made for it, and its
	//     addresses are those that the Service gets. On the nodes, to which the
	//     Service leads, Gateways share the ports: those with a port in common
	//     need different host names.
	//
	// +kubebuilder:default=Node
	// +optional
	Mode AddressMode `json:"mode,omitempty"`

	// pools are ranges of addresses that nobody else uses: "192.0.2.8/29"
	// without its first and last address, "2001:db8::/64" without its first,
	// "192.0.2.10-192.0.2.20" with both. With any mode a Gateway may name one of
	// them in its spec.addresses.
	//
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	Pools []AddressRange `json:"pools,omitempty"`

	// loadBalancer says how the Services of mode LoadBalancer are made.
	//
	// +optional
	LoadBalancer *LoadBalancer `json:"loadBalancer,omitempty"`
}

// AddressMode says where addresses come from.
//
// +kubebuilder:validation:Enum=Node;Pool;LoadBalancer
type AddressMode string

// The modes, Node being the default.
const (
	AddressModeNode         AddressMode = "Node"
	AddressModePool         AddressMode = "Pool"
	AddressModeLoadBalancer AddressMode = "LoadBalancer"
)

// AddressRange is a CIDR prefix, or a first and a last address with "-"
// between them; IPv4 or IPv6.
//
// +kubebuilder:validation:MaxLength=95
// +kubebuilder:validation:XValidation:message="must be a CIDR such as 192.0.2.0/24, or a range such as 192.0.2.10-192.0.2.20",rule="isCIDR(self) || (self.split('-').size() == 2 && self.split('-').all(a, isIP(a)) && ip(self.split('-')[0]).family() == ip(self.split('-')[1]).family())"
type AddressRange string

// LoadBalancer says how Services of type LoadBalancer are made.
type LoadBalancer struct {
	// class is the spec.loadBalancerClass of the Services; none is the default
	// of the cluster.
	//
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Class *string `json:"class,omitempty"`

	// externalTrafficPolicy is that of the Services. With Local a connection is
	// served by the node that it came to, and backends behind the PROXY protocol,
	// access log and metrics know the client's address; none is the default of
	// the cluster.
	//
	// +kubebuilder:validation:Enum=Cluster;Local
	// +optional
	ExternalTrafficPolicy *corev1.ServiceExternalTrafficPolicy `json:"externalTrafficPolicy,omitempty"`

	// annotations are put on the Services. Those of a Gateway's
	// spec.infrastructure come before them.
	//
	// +kubebuilder:validation:MaxProperties=64
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}
