// SPDX-License-Identifier: Apache-2.0

// Package infrastructure makes the Services that Gateways have in a cluster:
// of type LoadBalancer where a load balancer gives them their address, and as
// the bearer of the labels and annotations in their spec.infrastructure
// (GEP-1762).
//
// A Service is beside its Gateway, in a namespace where Sluice has no pods, so
// it has no selector; EndpointSlices lead to the addresses that the nodes
// listen on. It is owned by the Gateway and ends with it.
package infrastructure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applydiscoveryv1 "k8s.io/client-go/applyconfigurations/discovery/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
)

const (
	// Component is the value of publication.ComponentLabel on the Services and
	// EndpointSlices.
	Component = "gateway-service"
	// manager owns the fields that are applied, and the EndpointSlices.
	manager = "sluice.dev-controller"
	// maxEndpoints is what an EndpointSlice may hold.
	maxEndpoints = 1000
)

// Owned tells whether a Service was made here.
func Owned(s *corev1.Service) bool { return s.Labels[publication.ComponentLabel] == Component }

// rights are what a Maker must be allowed to do in all namespaces.
var rights = []authorizationv1.ResourceAttributes{
	{Resource: "services", Verb: "get"}, {Resource: "services", Verb: "create"}, {Resource: "services", Verb: "patch"}, {Resource: "services", Verb: "delete"},
	{Group: discoveryv1.GroupName, Resource: "endpointslices", Verb: "create"}, {Group: discoveryv1.GroupName, Resource: "endpointslices", Verb: "patch"},
}

// Permitted asks the API server whether Services may be made, in all namespaces.
func (m *Maker) Permitted(ctx context.Context) (bool, error) {
	for _, r := range rights {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &r}}
		review, err := m.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("ask whether the controller may %s %s: %w", r.Verb, r.Resource, err)
		}
		if !review.Status.Allowed {
			return false, nil
		}
	}
	return true, nil
}

// Maker makes Services. Its methods may not be called at the same time.
type Maker struct {
	// Client talks to the API server; deploy/kubernetes/services.yaml is what it
	// must be allowed to.
	Client kubernetes.Interface

	// made are the EndpointSlices as they were applied, by namespace and name
	// of the Service. Nobody watches them.
	made map[translate.Key]string
}

// Apply brings Services in line with what the statuses of all Gateways ask for:
// it makes and mends those, and deletes those that no Gateway asks for. present
// are the Services that there are; annotations of those that are [Owned] must
// be in them.
//
// The error joins what could not be done, each with its object; everything else
// is done. Try again then. Where that is of no use until somebody does something
// about it, unmade says so by Gateway, with the cure.
func (m *Maker) Apply(ctx context.Context, statuses []translate.Status, present []*corev1.Service) (unmade map[translate.Key]string, err error) {
	have := make(map[translate.Key]*corev1.Service, len(present))
	for _, s := range present {
		have[keyOf(s)] = s
	}
	unmade = map[translate.Key]string{}
	var problems []error
	wanted, kept := map[translate.Key]bool{}, map[translate.Key]bool{}
	for i := range statuses {
		in := statuses[i].Infrastructure
		switch {
		case in == nil:
			continue
		case in.Keep:
			kept[statuses[i].Key()] = true
			continue
		}
		k := translate.Key{Kind: "Service", Namespace: statuses[i].Namespace, Name: in.Service}
		wanted[k] = true
		if err := m.make(ctx, k, statuses[i].Name, in, have[k]); err != nil {
			problems = append(problems, fmt.Errorf("%s of Gateway %s/%s: %w", k, statuses[i].Namespace, statuses[i].Name, err))
			switch {
			case apierrors.IsForbidden(err):
				unmade[statuses[i].Key()] = err.Error() + "; the rights that the controller needs are in deploy/kubernetes/services.yaml"
			case apierrors.IsInvalid(err):
				unmade[statuses[i].Key()] = err.Error()
			}
		}
	}
	for k, s := range have {
		if !Owned(s) || wanted[k] || kept[gatewayOf(s)] {
			continue
		}
		// Its EndpointSlices are its own and go with it.
		err := m.Client.CoreV1().Services(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			problems = append(problems, fmt.Errorf("delete %s: %w", k, err))
		}
	}
	maps.DeleteFunc(m.made, func(k translate.Key, _ string) bool { return !wanted[k] })
	return unmade, errors.Join(problems...)
}

func keyOf(s *corev1.Service) translate.Key {
	return translate.Key{Kind: "Service", Namespace: s.Namespace, Name: s.Name}
}

// gatewayOf is the Gateway that owns a Service.
func gatewayOf(s *corev1.Service) translate.Key {
	for _, o := range s.OwnerReferences {
		if o.Kind == "Gateway" {
			return translate.Key{Kind: "Gateway", Namespace: s.Namespace, Name: o.Name}
		}
	}
	return translate.Key{}
}

func (m *Maker) make(ctx context.Context, k translate.Key, gateway string, in *translate.Infrastructure, have *corev1.Service) error {
	services := m.Client.CoreV1().Services(k.Namespace)
	switch {
	case have == nil:
		// The list may be behind. What somebody else made is not taken over.
		o, err := services.Get(ctx, k.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return err
		case !Owned(o):
			return errForeign
		default:
			have = o
		}
	case !Owned(have):
		return errForeign
	}
	if have != nil && in.Class != "" && have.Spec.Type == corev1.ServiceTypeLoadBalancer && value(have.Spec.LoadBalancerClass) != in.Class {
		// The class of a Service cannot change. Where none is asked for, the
		// cluster may have filled in its own.
		if err := services.Delete(ctx, k.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		have = nil
	}
	if have == nil || !matches(have, in) {
		var err error
		have, err = services.Apply(ctx, service(k, gateway, in), metav1.ApplyOptions{FieldManager: manager, Force: true})
		if err != nil {
			return err
		}
		delete(m.made, k)
	}
	text := fmt.Sprint(have.UID, in.Ports, in.Endpoints, in.Nodes)
	if m.made[k] == text {
		return nil
	}
	if err := m.slices(ctx, have, in); err != nil {
		return err
	}
	if m.made == nil {
		m.made = map[translate.Key]string{}
	}
	m.made[k] = text
	return nil
}

var errForeign = errors.New("there is one that is not Sluice's; delete or rename it")

// matches tells whether a Service is as it should be.
func matches(s *corev1.Service, in *translate.Infrastructure) bool {
	want := service(keyOf(s), "", in)
	return s.Spec.Type == *want.Spec.Type && (in.TrafficPolicy == "" || s.Spec.ExternalTrafficPolicy == in.TrafficPolicy) && s.Annotations[appliedAnnotation] == want.Annotations[appliedAnnotation] &&
		holds(s.Labels, want.Labels) && holds(s.Annotations, want.Annotations) &&
		slices.EqualFunc(s.Spec.Ports, in.Ports, func(a corev1.ServicePort, b translate.InfrastructurePort) bool {
			return a.Port == b.Port && a.Protocol == b.Protocol && a.TargetPort.IntVal == b.Port
		})
}

func holds(all, some map[string]string) bool {
	for k, v := range some {
		if got, ok := all[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// appliedAnnotation names the labels, annotations and fields that were applied
// where they are set, so that those that go are noticed.
const appliedAnnotation = "sluice.dev/applied"

func service(k translate.Key, gateway string, in *translate.Infrastructure) *applycorev1.ServiceApplyConfiguration {
	labels, annotations := maps.Clone(in.Labels), maps.Clone(in.Annotations)
	if labels == nil {
		labels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	labels[publication.ComponentLabel] = Component
	applied := append(slices.Sorted(maps.Keys(in.Labels)), slices.Sorted(maps.Keys(in.Annotations))...)
	spec := applycorev1.ServiceSpec().WithType(corev1.ServiceTypeClusterIP).WithIPFamilyPolicy(corev1.IPFamilyPolicyPreferDualStack)
	if in.LoadBalancer {
		spec.WithType(corev1.ServiceTypeLoadBalancer)
		if in.Class != "" {
			spec.WithLoadBalancerClass(in.Class)
		}
		if in.TrafficPolicy != "" {
			spec.WithExternalTrafficPolicy(in.TrafficPolicy)
			applied = append(applied, "externalTrafficPolicy")
		}
	}
	annotations[appliedAnnotation] = strings.Join(applied, ",")
	for _, p := range in.Ports {
		spec.WithPorts(applycorev1.ServicePort().WithName(portName(p)).WithPort(p.Port).WithProtocol(p.Protocol).WithTargetPort(intstr.FromInt32(p.Port)))
	}
	return applycorev1.Service(k.Name, k.Namespace).WithLabels(labels).WithAnnotations(annotations).WithSpec(spec).
		WithOwnerReferences(applymetav1.OwnerReference().WithAPIVersion(gwv1.GroupVersion.String()).WithKind("Gateway").
			WithName(gateway).WithUID(in.Owner).WithController(true))
}

// slices makes the EndpointSlices of a Service, one of each address family.
func (m *Maker) slices(ctx context.Context, s *corev1.Service, in *translate.Infrastructure) error {
	var problems []error
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := applydiscoveryv1.EndpointSlice(s.Name+"-"+strings.ToLower(string(family)), s.Namespace).
			WithLabels(map[string]string{discoveryv1.LabelServiceName: s.Name, discoveryv1.LabelManagedBy: manager, publication.ComponentLabel: Component}).
			WithOwnerReferences(applymetav1.OwnerReference().WithAPIVersion("v1").WithKind("Service").WithName(s.Name).WithUID(s.UID).WithController(true)).
			WithAddressType(family)
		for _, p := range in.Ports {
			slice.WithPorts(applydiscoveryv1.EndpointPort().WithName(portName(p)).WithPort(p.Port).WithProtocol(p.Protocol))
		}
		of := slices.DeleteFunc(slices.Clone(in.Endpoints), func(a netip.Addr) bool { return a.Is4() != (family == discoveryv1.AddressTypeIPv4) })
		for _, a := range of[:min(len(of), maxEndpoints)] {
			endpoint := applydiscoveryv1.Endpoint().WithAddresses(a.String()).WithConditions(applydiscoveryv1.EndpointConditions().WithReady(true))
			if n := in.Nodes[a]; n != "" {
				endpoint.WithNodeName(n)
			}
			slice.WithEndpoints(endpoint)
		}
		if _, err := m.Client.DiscoveryV1().EndpointSlices(s.Namespace).Apply(ctx, slice, metav1.ApplyOptions{FieldManager: manager, Force: true}); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// portName is "tcp-443" or "udp-53": ports of a Service must have names.
func portName(p translate.InfrastructurePort) string {
	return fmt.Sprintf("%s-%d", strings.ToLower(string(p.Protocol)), p.Port)
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
