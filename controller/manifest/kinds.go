// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

type groupKind struct{ group, kind string }

// kind is how one kind is read.
type kind struct {
	versions   []string // served, the one to write first
	namespaced bool
	// read adds an object to resources, or returns what is wrong with it.
	read func(raw []byte, namespace string, into *translate.Resources) []string
}

func (k kind) has(version string) bool { return slices.Contains(k.versions, version) }

func (k kind) apiVersion(group string) string {
	if group == "" {
		return k.versions[0]
	}
	return group + "/" + k.versions[0]
}

// kinds are those that have a part in what is served. Older versions have the
// fields of v1: TCPRoute v1alpha2, TLSRoute v1alpha2 and v1alpha3,
// ReferenceGrant v1beta1, and so on.
var kinds = map[groupKind]kind{
	{gwv1.GroupName, "GatewayClass"}: {versions: []string{"v1", "v1beta1"}, read: reader(checkGatewayClass,
		func(r *translate.Resources, o *gwv1.GatewayClass) {
			o.Status = gwv1.GatewayClassStatus{}
			r.GatewayClasses = append(r.GatewayClasses, o)
		})},
	{gwv1.GroupName, "Gateway"}: {versions: []string{"v1", "v1beta1"}, namespaced: true, read: reader(checkGateway,
		func(r *translate.Resources, o *gwv1.Gateway) {
			o.Status = gwv1.GatewayStatus{}
			r.Gateways = append(r.Gateways, o)
		})},
	{v1alpha1.GroupName, "GatewayConfig"}: {versions: []string{"v1alpha1"}, namespaced: true, read: reader(checkGatewayConfig,
		func(r *translate.Resources, o *v1alpha1.GatewayConfig) {
			r.GatewayConfigs = append(r.GatewayConfigs, o)
		})},
	{gwv1.GroupName, "ListenerSet"}: {versions: []string{"v1"}, namespaced: true, read: reader(checkListenerSet,
		func(r *translate.Resources, o *gwv1.ListenerSet) {
			o.Status = gwv1.ListenerSetStatus{}
			r.ListenerSets = append(r.ListenerSets, o)
		})},
	{gwv1.GroupName, "TCPRoute"}: {versions: []string{"v1", "v1alpha2"}, namespaced: true, read: reader(checkTCPRoute,
		func(r *translate.Resources, o *gwv1.TCPRoute) {
			o.Status = gwv1.TCPRouteStatus{}
			r.TCPRoutes = append(r.TCPRoutes, o)
		})},
	{gwv1.GroupName, "TLSRoute"}: {versions: []string{"v1", "v1alpha3", "v1alpha2"}, namespaced: true, read: reader(checkTLSRoute,
		func(r *translate.Resources, o *gwv1.TLSRoute) {
			o.Status = gwv1.TLSRouteStatus{}
			r.TLSRoutes = append(r.TLSRoutes, o)
		})},
	{gwv1.GroupName, "HTTPRoute"}: {versions: []string{"v1", "v1beta1"}, namespaced: true, read: reader(checkHTTPRoute,
		func(r *translate.Resources, o *gwv1.HTTPRoute) {
			o.Status = gwv1.HTTPRouteStatus{}
			r.HTTPRoutes = append(r.HTTPRoutes, o)
		})},
	{gwv1.GroupName, "GRPCRoute"}: {versions: []string{"v1"}, namespaced: true, read: reader(nil,
		func(r *translate.Resources, o *gwv1.GRPCRoute) {
			o.Status = gwv1.GRPCRouteStatus{}
			r.GRPCRoutes = append(r.GRPCRoutes, o)
		})},
	{gwv1.GroupName, "UDPRoute"}: {versions: []string{"v1", "v1alpha2"}, namespaced: true, read: reader(nil,
		func(r *translate.Resources, o *gwv1.UDPRoute) {
			o.Status = gwv1.UDPRouteStatus{}
			r.UDPRoutes = append(r.UDPRoutes, o)
		})},
	{gwv1.GroupName, "ReferenceGrant"}: {versions: []string{"v1", "v1beta1"}, namespaced: true, read: reader(checkReferenceGrant,
		func(r *translate.Resources, o *gwv1.ReferenceGrant) { r.ReferenceGrants = append(r.ReferenceGrants, o) })},
	{gwv1.GroupName, "BackendTLSPolicy"}: {versions: []string{"v1", "v1alpha3"}, namespaced: true, read: reader(checkBackendTLSPolicy,
		func(r *translate.Resources, o *gwv1.BackendTLSPolicy) {
			o.Status = gwv1.PolicyStatus{}
			r.BackendTLSPolicies = append(r.BackendTLSPolicies, o)
		})},
	{"", "Namespace"}: {versions: []string{"v1"}, read: reader(nil,
		func(r *translate.Resources, o *corev1.Namespace) { r.Namespaces = append(r.Namespaces, o) })},
	{"", "Secret"}: {versions: []string{"v1"}, namespaced: true, read: reader(checkSecret,
		func(r *translate.Resources, o *corev1.Secret) { r.Secrets = append(r.Secrets, o) })},
	{"", "ConfigMap"}: {versions: []string{"v1"}, namespaced: true, read: reader(nil,
		func(r *translate.Resources, o *corev1.ConfigMap) { r.ConfigMaps = append(r.ConfigMaps, o) })},
	{"", "Service"}: {versions: []string{"v1"}, namespaced: true, read: reader(checkService,
		func(r *translate.Resources, o *corev1.Service) { r.Services = append(r.Services, o) })},
	{discoveryv1.GroupName, "EndpointSlice"}: {versions: []string{"v1"}, namespaced: true, read: reader(checkEndpointSlice,
		func(r *translate.Resources, o *discoveryv1.EndpointSlice) {
			r.EndpointSlices = append(r.EndpointSlices, o)
		})},
}

// reader returns how to read a T: decode it strictly, take out what is the API
// server's, default and check it, and add it to resources.
func reader[T any, P interface {
	*T
	metav1.Object
}](check func(*checker, P), add func(*translate.Resources, P)) func([]byte, string, *translate.Resources) []string {
	return func(raw []byte, namespace string, into *translate.Resources) []string {
		o := P(new(T))
		if problems := strict(raw, o); len(problems) > 0 {
			return problems
		}
		var c checker
		c.metadata(o)
		o.SetNamespace(namespace)
		o.SetCreationTimestamp(metav1.Time{})
		o.SetGeneration(0)
		o.SetResourceVersion("")
		o.SetUID("")
		o.SetManagedFields(nil)
		if check != nil {
			check(&c, o)
		}
		if len(c.problems) == 0 {
			add(into, o)
		}
		return c.problems
	}
}

// coreKinds are the kinds of group "" that are passed over. The list tells a
// kind without a part here from a slip of the pen.
var coreKinds = []string{"Binding", "ComponentStatus", "Event", "LimitRange", "Node", "PersistentVolume",
	"PersistentVolumeClaim", "Pod", "PodTemplate", "ReplicationController", "ResourceQuota", "ServiceAccount"}

// unknown says why a kind that is not read cannot be passed over; "" when it
// can.
func unknown(group, k string) string {
	switch {
	case group == "" && k == "Endpoints":
		return "Endpoints are not read; write an EndpointSlice with label " + discoveryv1.LabelServiceName
	case group == "" && slices.Contains(coreKinds, k):
		return ""
	case group == "" || group == gwv1.GroupName || group == discoveryv1.GroupName || group == v1alpha1.GroupName:
		return fmt.Sprintf("kind %s does not exist in group %q; known are %s", k, group, known(group))
	}
	return ""
}

func known(group string) string {
	var all []string
	for gk := range kinds {
		if gk.group == group {
			all = append(all, gk.kind)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
