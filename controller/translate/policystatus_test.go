// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// withPolicy is a BackendTLSPolicy that counts for so many Gateways, whose status
// has so many of other controllers.
func withPolicy(gateways, others int) translate.Resources {
	of := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 1}
	}
	port := gwv1.PortNumber(443)
	system := gwv1.WellKnownCACertificatesSystem
	policy := &gwv1.BackendTLSPolicy{ObjectMeta: of("policy"), Spec: gwv1.BackendTLSPolicySpec{
		TargetRefs: []gwv1.LocalPolicyTargetReferenceWithSectionName{{LocalPolicyTargetReference: gwv1.LocalPolicyTargetReference{Kind: "Service", Name: "web"}}},
		Validation: gwv1.BackendTLSPolicyValidation{Hostname: "web.example", WellKnownCACertificates: &system}}}
	for i := range others {
		policy.Status.Ancestors = append(policy.Status.Ancestors, gwv1.PolicyAncestorStatus{ControllerName: "example.com/other",
			AncestorRef: gwv1.ParentReference{Name: gwv1.ObjectName(fmt.Sprint("theirs-", i))}})
	}
	route := &gwv1.HTTPRoute{ObjectMeta: of("web"), Spec: gwv1.HTTPRouteSpec{Rules: []gwv1.HTTPRouteRule{{BackendRefs: []gwv1.HTTPBackendRef{{
		BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{Name: "web", Port: &port}}}}}}}}
	r := translate.Resources{BackendTLSPolicies: []*gwv1.BackendTLSPolicy{policy}, HTTPRoutes: []*gwv1.HTTPRoute{route},
		GatewayClasses: []*gwv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "sluice"}, Spec: gwv1.GatewayClassSpec{ControllerName: controllerName}}},
		Services:       []*corev1.Service{{ObjectMeta: of("web"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: port}}}}}}
	for i := range gateways {
		r.Gateways = append(r.Gateways, gatewayOf(of(fmt.Sprintf("gw-%02d", i)), 1000+i))
		route.Spec.ParentRefs = append(route.Spec.ParentRefs, gwv1.ParentReference{Name: gwv1.ObjectName(r.Gateways[i].Name)})
	}
	return r
}

func gatewayOf(m metav1.ObjectMeta, port int) *gwv1.Gateway {
	return &gwv1.Gateway{ObjectMeta: m, Spec: gwv1.GatewaySpec{GatewayClassName: "sluice",
		Listeners: []gwv1.Listener{{Name: "http", Port: gwv1.PortNumber(port), Protocol: gwv1.HTTPProtocolType}}}}
}

// toldOf are the ancestors that the status of the policy has then, the policy's
// warnings, and the Gateways that say that it does not tell of them.
func toldOf(r translate.Resources) (ancestors []gwv1.PolicyAncestorStatus, warnings, silent []string) {
	all := translate.Translate(r, translate.Options{ControllerName: controllerName, Now: now, ByNode: true}).Statuses(translate.Feedback{})
	for _, s := range all {
		switch {
		case s.Policy != nil:
			ancestors, warnings = s.Policy.Ancestors, s.Warnings
		case s.Gateway != nil:
			if c := meta.FindStatusCondition(s.Gateway.Conditions, "Accepted"); strings.Contains(c.Message, "no room to tell of it: shop/policy") {
				silent = append(silent, s.Name)
			}
		}
	}
	return ancestors, warnings, silent
}

func ancestorNames(all []gwv1.PolicyAncestorStatus) (out []string) {
	for _, a := range all {
		out = append(out, string(a.AncestorRef.Name))
	}
	return out
}

func TestAPolicyWhoseStatusIsFullSaysOfHowManyItDoesNotTell(t *testing.T) {
	r := withPolicy(18, 3)
	ancestors, warnings, silent := toldOf(r)
	if len(ancestors) != 16 || ancestors[0].ControllerName != "example.com/other" || ancestors[2].ControllerName != "example.com/other" {
		t.Fatalf("ancestors %q", ancestorNames(ancestors))
	}
	const want = "it does not tell of 5 more"
	for _, a := range ancestors[3:] {
		if c := meta.FindStatusCondition(a.Conditions, "Accepted"); c.Status != metav1.ConditionTrue || !strings.Contains(c.Message, want) {
			t.Errorf("ancestor %s: %+v, want a message that has %q", a.AncestorRef.Name, c, want)
		}
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], want) {
		t.Errorf("warnings %q, want one with %q", warnings, want)
	}
	if left := []string{"gw-13", "gw-14", "gw-15", "gw-16", "gw-17"}; !slices.Equal(silent, left) {
		t.Errorf("%q say that nothing tells of them, want %q", silent, left)
	}

	// One that comes later, and first by name, takes nobody's place.
	r.BackendTLSPolicies[0].Status.Ancestors = ancestors
	before := ancestorNames(ancestors)
	late := r.Gateways[0].ObjectMeta
	late.Name = "a-late-one"
	r.Gateways = append(r.Gateways, gatewayOf(late, 80))
	r.HTTPRoutes[0].Spec.ParentRefs = append(r.HTTPRoutes[0].Spec.ParentRefs, gwv1.ParentReference{Name: "a-late-one"})
	if ancestors, _, silent = toldOf(r); !slices.Equal(ancestorNames(ancestors), before) || !slices.Contains(silent, "a-late-one") {
		t.Errorf("ancestors are %q, were %q; %q say that nothing tells of them", ancestorNames(ancestors), before, silent)
	}
}

func TestAGatewaySaysThatOthersFillTheStatusOfItsPolicy(t *testing.T) {
	r := withPolicy(1, 16)
	ancestors, _, silent := toldOf(r)
	if got, want := ancestorNames(ancestors), ancestorNames(r.BackendTLSPolicies[0].Status.Ancestors); !slices.Equal(got, want) {
		t.Errorf("ancestors %q, want those of others, %q", got, want)
	}
	if !slices.Equal(silent, []string{"gw-00"}) {
		t.Errorf("%q say that nothing tells of them", silent)
	}
}

func TestAPolicyWithRoomForAllGatewaysSaysNoMore(t *testing.T) {
	ancestors, warnings, silent := toldOf(withPolicy(16, 0))
	if len(ancestors) != 16 || len(warnings)+len(silent) > 0 {
		t.Errorf("%d ancestors, warnings %q, Gateways %q", len(ancestors), warnings, silent)
	}
}

func BenchmarkPolicies(b *testing.B) {
	for _, n := range []int{1250, 5000} {
		r := withPolicy(1, 0)
		policy, route, service := r.BackendTLSPolicies[0], r.HTTPRoutes[0], r.Services[0]
		for i := range n {
			name := fmt.Sprint("web-", i)
			p, h, s := policy.DeepCopy(), route.DeepCopy(), service.DeepCopy()
			p.Name, h.Name, s.Name = name, name, name
			p.Spec.TargetRefs[0].Name, h.Spec.Rules[0].BackendRefs[0].Name = gwv1.ObjectName(name), gwv1.ObjectName(name)
			r.BackendTLSPolicies, r.HTTPRoutes, r.Services = append(r.BackendTLSPolicies, p), append(r.HTTPRoutes, h), append(r.Services, s)
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				translate.Translate(r, translate.Options{ControllerName: controllerName, Now: now, ByNode: true})
			}
		})
	}
}
