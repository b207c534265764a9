// SPDX-License-Identifier: Apache-2.0

package controller

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwv1a2 "sigs.k8s.io/gateway-api/apis/v1alpha2"

	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

// kind is a kind of objects that is watched.
type kind struct {
	name string
	// crd is the name of its CRD, "" for kinds of Kubernetes itself.
	crd string
	// versions are empty objects, the best version first. Objects of the others
	// are kept as ones of the first (slim).
	versions []client.Object
	// take hands the objects to a translation, nil where it does not see them.
	take func(*translate.Resources, []client.Object)
}

const (
	definitionKind = "CustomResourceDefinition"
	secretKind     = "Secret"
	configMapKind  = "ConfigMap"
	leaseKind      = "Lease"
)

// kinds are all kinds that are watched.
func kinds() []kind {
	return []kind{
		{name: definitionKind, versions: []client.Object{&apiextensionsv1.CustomResourceDefinition{}}},
		{name: secretKind, versions: []client.Object{metadataOf(secretKind)}},
		{name: configMapKind, versions: []client.Object{metadataOf(configMapKind)}},
		{name: leaseKind, versions: []client.Object{&coordinationv1.Lease{}}},
		{name: "Namespace", versions: []client.Object{&corev1.Namespace{}},
			take: take(func(r *translate.Resources) *[]*corev1.Namespace { return &r.Namespaces })},
		{name: "Service", versions: []client.Object{&corev1.Service{}},
			take: take(func(r *translate.Resources) *[]*corev1.Service { return &r.Services })},

		{name: "GatewayClass", crd: "gatewayclasses." + gwv1.GroupName, versions: []client.Object{&gwv1.GatewayClass{}},
			take: take(func(r *translate.Resources) *[]*gwv1.GatewayClass { return &r.GatewayClasses })},
		{name: "GatewayConfig", crd: "gatewayconfigs." + v1alpha1.GroupName, versions: []client.Object{&v1alpha1.GatewayConfig{}},
			take: take(func(r *translate.Resources) *[]*v1alpha1.GatewayConfig { return &r.GatewayConfigs })},
		{name: "Gateway", crd: gatewayCRD, versions: []client.Object{&gwv1.Gateway{}},
			take: take(func(r *translate.Resources) *[]*gwv1.Gateway { return &r.Gateways })},
		{name: "ListenerSet", crd: "listenersets." + gwv1.GroupName, versions: []client.Object{&gwv1.ListenerSet{}},
			take: take(func(r *translate.Resources) *[]*gwv1.ListenerSet { return &r.ListenerSets })},
		{name: "TCPRoute", crd: "tcproutes." + gwv1.GroupName, versions: []client.Object{&gwv1.TCPRoute{}, &gwv1a2.TCPRoute{}},
			take: take(func(r *translate.Resources) *[]*gwv1.TCPRoute { return &r.TCPRoutes })},
		{name: "TLSRoute", crd: "tlsroutes." + gwv1.GroupName, versions: []client.Object{&gwv1.TLSRoute{}},
			take: take(func(r *translate.Resources) *[]*gwv1.TLSRoute { return &r.TLSRoutes })},
		{name: "HTTPRoute", crd: "httproutes." + gwv1.GroupName, versions: []client.Object{&gwv1.HTTPRoute{}},
			take: take(func(r *translate.Resources) *[]*gwv1.HTTPRoute { return &r.HTTPRoutes })},
		{name: "GRPCRoute", crd: "grpcroutes." + gwv1.GroupName, versions: []client.Object{&gwv1.GRPCRoute{}},
			take: take(func(r *translate.Resources) *[]*gwv1.GRPCRoute { return &r.GRPCRoutes })},
		{name: "UDPRoute", crd: "udproutes." + gwv1.GroupName, versions: []client.Object{&gwv1.UDPRoute{}, &gwv1a2.UDPRoute{}},
			take: take(func(r *translate.Resources) *[]*gwv1.UDPRoute { return &r.UDPRoutes })},
		{name: "ReferenceGrant", crd: "referencegrants." + gwv1.GroupName, versions: []client.Object{&gwv1.ReferenceGrant{}},
			take: take(func(r *translate.Resources) *[]*gwv1.ReferenceGrant { return &r.ReferenceGrants })},
		{name: "BackendTLSPolicy", crd: "backendtlspolicies." + gwv1.GroupName, versions: []client.Object{&gwv1.BackendTLSPolicy{}},
			take: take(func(r *translate.Resources) *[]*gwv1.BackendTLSPolicy { return &r.BackendTLSPolicies })},
	}
}

const gatewayCRD = "gateways." + gwv1.GroupName

// take fills a list of Resources.
func take[T client.Object](list func(*translate.Resources) *[]T) func(*translate.Resources, []client.Object) {
	return func(r *translate.Resources, objects []client.Object) {
		to := list(r)
		for _, o := range objects {
			*to = append(*to, o.(T))
		}
	}
}

// metadataOf is an object of the core group of which only the metadata is read.
func metadataOf(kind string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kind}}
}

// newScheme knows the types of all kinds.
func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, apiextensionsv1.AddToScheme, gwv1.Install, gwv1a2.Install, v1alpha1.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic("controller: types are registered once: " + err.Error())
		}
	}
	return s
}
