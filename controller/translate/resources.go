// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

// Resources are the objects to translate, in any order. Translate reads them
// only; they may be shared with a cache.
//
// Kinds that Sluice does not serve are here so that whoever wrote them is told.
type Resources struct {
	GatewayClasses     []*gwv1.GatewayClass
	GatewayConfigs     []*v1alpha1.GatewayConfig
	Gateways           []*gwv1.Gateway
	ListenerSets       []*gwv1.ListenerSet
	TCPRoutes          []*gwv1.TCPRoute
	TLSRoutes          []*gwv1.TLSRoute
	HTTPRoutes         []*gwv1.HTTPRoute
	GRPCRoutes         []*gwv1.GRPCRoute
	UDPRoutes          []*gwv1.UDPRoute
	ReferenceGrants    []*gwv1.ReferenceGrant
	BackendTLSPolicies []*gwv1.BackendTLSPolicy
	Namespaces         []*corev1.Namespace
	Secrets            []*corev1.Secret
	ConfigMaps         []*corev1.ConfigMap
	Services           []*corev1.Service
	EndpointSlices     []*discoveryv1.EndpointSlice

	// Sources optionally says where an object was written, "file:line", for
	// messages.
	Sources map[Key]string
	// Unread says the same of objects that are there and cannot be read. The zero
	// Key stands for what is not even known by name.
	Unread map[Key]string
	// Hidden are objects that may be there and that the reader has no right to see.
	// They are taken to be as they should.
	Hidden map[Key]bool
}

// ParentRefs are those of each route.
func (r *Resources) ParentRefs() map[Key][]gwv1.ParentReference {
	out := map[Key][]gwv1.ParentReference{}
	for _, route := range (&translator{in: *r}).readRoutes() {
		out[route.key()] = route.common.ParentRefs
	}
	return out
}

// Key names an object. Namespace is "" for GatewayClass and Namespace.
type Key struct {
	Kind, Namespace, Name string
}

// String returns "Kind namespace/name".
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// Merge adds the objects of o. An object that r has already is left out and
// reported, with both sources: which of two definitions is meant is not to be
// guessed. Nothing that r or o shared with others is changed.
func (r *Resources) Merge(o Resources) error {
	return r.MergeFunc(o, func(Key) bool { return true })
}

// MergeFunc is Merge for those objects of o that take wants. It asks for each
// of them once.
func (r *Resources) MergeFunc(o Resources, take func(Key) bool) error {
	m := merger{take: take, sources: map[Key]string{}}
	for k, s := range r.Sources {
		m.sources[k] = s
	}
	m.added = o.Sources
	merge(&m, "GatewayClass", &r.GatewayClasses, o.GatewayClasses)
	merge(&m, "GatewayConfig", &r.GatewayConfigs, o.GatewayConfigs)
	merge(&m, "Gateway", &r.Gateways, o.Gateways)
	merge(&m, "ListenerSet", &r.ListenerSets, o.ListenerSets)
	merge(&m, "TCPRoute", &r.TCPRoutes, o.TCPRoutes)
	merge(&m, "TLSRoute", &r.TLSRoutes, o.TLSRoutes)
	merge(&m, "HTTPRoute", &r.HTTPRoutes, o.HTTPRoutes)
	merge(&m, "GRPCRoute", &r.GRPCRoutes, o.GRPCRoutes)
	merge(&m, "UDPRoute", &r.UDPRoutes, o.UDPRoutes)
	merge(&m, "ReferenceGrant", &r.ReferenceGrants, o.ReferenceGrants)
	merge(&m, "BackendTLSPolicy", &r.BackendTLSPolicies, o.BackendTLSPolicies)
	merge(&m, "Namespace", &r.Namespaces, o.Namespaces)
	merge(&m, "Secret", &r.Secrets, o.Secrets)
	merge(&m, "ConfigMap", &r.ConfigMaps, o.ConfigMaps)
	merge(&m, "Service", &r.Services, o.Services)
	merge(&m, "EndpointSlice", &r.EndpointSlices, o.EndpointSlices)
	r.Sources = m.sources
	r.Unread = merged(r.Unread, o.Unread)
	return errors.Join(m.problems...)
}

// merged are the entries of both; a counts where they differ.
func merged(a, b map[Key]string) map[Key]string {
	if len(b) == 0 {
		return a
	}
	out := maps.Clone(b)
	maps.Copy(out, a)
	return out
}

// absent says of an object that is not among the resources that it does not
// exist and what cures that, or what is known better.
func (r *Resources) absent(k Key, cure string) string {
	if at := r.Unread[k]; at != "" {
		return fmt.Sprintf("%s cannot be read, see what is wrong at %s", k, at)
	}
	if at := r.Unread[Key{}]; at != "" {
		return fmt.Sprintf("%s does not exist, unless it is what cannot be read at %s", k, at)
	}
	return fmt.Sprintf("%s does not exist; %s", k, cure)
}

type merger struct {
	take           func(Key) bool
	sources, added map[Key]string
	problems       []error
}

func merge[T metav1.Object](m *merger, kind string, into *[]T, add []T) {
	have := make(map[Key]bool, len(*into))
	for _, o := range *into {
		have[keyOf(kind, o)] = true
	}
	out := slices.Clip(*into)
	for _, o := range add {
		k := keyOf(kind, o)
		if !m.take(k) {
			continue
		}
		if have[k] {
			m.problems = append(m.problems, fmt.Errorf("%s: %s is already defined at %s, which counts; delete one of the two",
				cmp.Or(m.added[k], "unknown source"), k, cmp.Or(m.sources[k], "another source")))
			continue
		}
		have[k] = true
		out = append(out, o)
		if s := m.added[k]; s != "" {
			m.sources[k] = s
		}
	}
	*into = out
}

func keyOf(kind string, o metav1.Object) Key { return Key{kind, o.GetNamespace(), o.GetName()} }

// byAge returns the objects oldest first, then by namespace and name: the
// order in which the Gateway API settles conflicts.
func byAge[T metav1.Object](in []T) []T {
	out := slices.Clone(in)
	slices.SortStableFunc(out, compareAge)
	return out
}

func compareAge[T metav1.Object](a, b T) int {
	return cmp.Or(a.GetCreationTimestamp().Compare(b.GetCreationTimestamp().Time),
		cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}

// name is a namespace and a name.
type name struct{ namespace, name string }

func (n name) String() string { return n.namespace + "/" + n.name }

func nameOf(o metav1.Object) name { return name{o.GetNamespace(), o.GetName()} }

func index[T metav1.Object](in []T) map[name]T {
	out := make(map[name]T, len(in))
	for _, o := range in {
		out[nameOf(o)] = o
	}
	return out
}

// value returns what p points to, or a default.
func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
