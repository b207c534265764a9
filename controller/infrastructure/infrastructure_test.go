// SPDX-License-Identifier: Apache-2.0

package infrastructure_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/bench/leak"
	"github.com/sluice-gateway/sluice/controller/infrastructure"
	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/controller/v1alpha1"
	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

var server *apiserver.Server

func TestMain(m *testing.M) {
	os.Exit(leak.Of(func() int {
		var err error
		if server, err = apiserver.Start(context.Background(), apiserver.Options{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")).Run())
}

// world is a namespace with a Gateway of a class with mode LoadBalancer, as a
// controller sees it.
type world struct {
	*testing.T
	admin    *kubernetes.Clientset
	maker    *infrastructure.Maker
	in       translate.Resources
	ns       string
	feedback translate.Feedback // as the last step left it
}

// newWorld lets the controller do what deploy/kubernetes says, and no more.
func newWorld(t *testing.T) *world {
	t.Helper()
	for _, f := range []string{"namespace", "controller", "services"} {
		text, err := os.ReadFile("../../deploy/kubernetes/" + f + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Apply(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	admin, err := kubernetes.NewForConfig(server.Config())
	if err != nil {
		t.Fatal(err)
	}
	config, err := server.ServiceAccount(t.Context(), "sluice-system", "sluice-controller")
	if err != nil {
		t.Fatal(err)
	}
	controller, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "infra-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) { // until roles are known
		_, err := controller.CoreV1().Services(ns.Name).Get(t.Context(), "none", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	sluice := gwv1.Namespace("sluice-system")
	return &world{T: t, admin: admin, ns: ns.Name, maker: &infrastructure.Maker{Client: controller}, in: translate.Resources{
		GatewayClasses: []*gwv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "cloud"}, Spec: gwv1.GatewayClassSpec{ControllerName: "sluice.dev/gateway-controller",
			ParametersRef: &gwv1.ParametersReference{Group: v1alpha1.GroupName, Kind: "GatewayConfig", Name: "lb", Namespace: &sluice}}}},
		GatewayConfigs: []*v1alpha1.GatewayConfig{{ObjectMeta: metav1.ObjectMeta{Namespace: "sluice-system", Name: "lb"},
			Spec: v1alpha1.GatewayConfigSpec{Addresses: v1alpha1.Addresses{Mode: v1alpha1.AddressModeLoadBalancer}}}},
		Gateways: []*gwv1.Gateway{{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "shop", UID: "1"}, Spec: gwv1.GatewaySpec{GatewayClassName: "cloud",
			Infrastructure: &gwv1.GatewayInfrastructure{Labels: map[gwv1.LabelKey]gwv1.LabelValue{"team": "web"}, Annotations: map[gwv1.AnnotationKey]gwv1.AnnotationValue{"note": "1"}},
			Listeners:      []gwv1.Listener{{Name: "tls", Port: 443, Protocol: gwv1.TCPProtocolType}, {Name: "dns", Port: 53, Protocol: gwv1.UDPProtocolType}}}}},
	}}
}

// step translates what there is and applies it, as the controller does.
func (w *world) step() (*gwv1.GatewayStatus, error) {
	w.Helper()
	list, err := w.admin.CoreV1().Services(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	w.in.Services = nil
	for i := range list.Items {
		w.in.Services = append(w.in.Services, &list.Items[i])
	}
	statuses := translate.Translate(w.in, translate.Options{ControllerName: "sluice.dev/gateway-controller", Now: time.Now(), ByNode: true,
		NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		NodeNames:     map[netip.Addr]string{netip.MustParseAddr("192.0.2.1"): "node-a"}}).Statuses(w.feedback)
	var of *gwv1.GatewayStatus
	for _, s := range statuses {
		if s.Gateway != nil {
			of = s.Gateway
		}
	}
	unmade, err := w.maker.Apply(w.Context(), statuses, w.in.Services)
	w.feedback.Unmade = unmade
	return of, err
}

func (w *world) must() *gwv1.GatewayStatus {
	w.Helper()
	s, err := w.step()
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) service() *corev1.Service {
	w.Helper()
	s, err := w.admin.CoreV1().Services(w.ns).Get(w.Context(), "shop-cloud", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func TestAGatewayGetsAServiceAndItsAddress(t *testing.T) {
	w := newWorld(t)
	w.must()
	s := w.service()
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(s.Spec.Selector) > 0 || !infrastructure.Owned(s) ||
		s.Labels["team"] != "web" || s.Labels[gwv1.GatewayNameLabelKey] != "shop" || s.Annotations["note"] != "1" {
		t.Errorf("%+v", s)
	}
	var ports []string
	for _, p := range s.Spec.Ports {
		ports = append(ports, fmt.Sprint(p.Name, " ", p.Port, " ", p.Protocol, " ", p.TargetPort.String()))
	}
	if diff := cmp.Diff([]string{"udp-53 53 UDP 53", "tcp-443 443 TCP 443"}, ports); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	list, err := w.admin.DiscoveryV1().EndpointSlices(w.ns).List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=shop-cloud"})
	if err != nil {
		t.Fatal(err)
	}
	var endpoints []string
	for _, e := range list.Items {
		for _, p := range e.Endpoints {
			node := "?"
			if p.NodeName != nil {
				node = *p.NodeName
			}
			endpoints = append(endpoints, fmt.Sprint(e.AddressType, p.Addresses, " ", node, " ", *p.Conditions.Ready, " ", len(e.Ports)))
		}
		if e.OwnerReferences[0].UID != s.UID {
			t.Errorf("EndpointSlice %s is owned by %+v", e.Name, e.OwnerReferences)
		}
	}
	slices.Sort(endpoints)
	if diff := cmp.Diff([]string{"IPv4[192.0.2.1] node-a true 2", "IPv6[2001:db8::1] ? true 2"}, endpoints); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}

	// The cloud gives it an address, and fills in what is its own.
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	if s, err = w.admin.CoreV1().Services(w.ns).UpdateStatus(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	status := w.must()
	if len(status.Addresses) != 1 || status.Addresses[0].Value != "203.0.113.9" {
		t.Errorf("addresses %+v", status.Addresses)
	}
	if now := w.service(); now.ResourceVersion != s.ResourceVersion {
		t.Errorf("it was written again though nothing changed")
	}
}

func TestAServiceIsMendedAndKeepsWhatOthersPutThere(t *testing.T) {
	w := newWorld(t)
	w.must()
	s := w.service()
	s.Labels["team"], s.Labels["other"], s.Annotations["cloud"] = "lies", "stays", "stays"
	s.Spec.Ports[0].TargetPort = intstr.FromInt32(1)
	if _, err := w.admin.CoreV1().Services(w.ns).Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.must()
	if s = w.service(); s.Labels["team"] != "web" || s.Labels["other"] != "stays" || s.Annotations["cloud"] != "stays" || s.Spec.Ports[0].TargetPort.IntVal != s.Spec.Ports[0].Port {
		t.Errorf("%v %v %v", s.Labels, s.Annotations, s.Spec.Ports)
	}
	g := w.in.Gateways[0].Spec.DeepCopy()
	g.Infrastructure.Labels = nil
	g.Listeners = g.Listeners[:1]
	w.in.Gateways[0].Spec = *g
	w.must()
	if s = w.service(); s.Labels["team"] != "" || s.Labels["other"] != "stays" || len(s.Spec.Ports) != 1 || s.Annotations["note"] != "1" {
		t.Errorf("after the Gateway changed: %v %v %v", s.Labels, s.Annotations, s.Spec.Ports)
	}
}

func TestAServiceOfSomebodyElseIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	theirs := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shop-cloud"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}
	theirs, err := w.admin.CoreV1().Services(w.ns).Create(t.Context(), theirs, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	status := w.must() // which tells that it is there
	if c := status.Conditions; !slices.ContainsFunc(c, func(c metav1.Condition) bool {
		return c.Reason == string(gwv1.GatewayReasonAddressNotAssigned) && strings.Contains(c.Message, "delete or rename")
	}) {
		t.Errorf("conditions %+v", c)
	}
	// A list that does not have it yet changes nothing.
	statuses := []translate.Status{{Kind: "Gateway", Namespace: w.ns, Name: "shop", Infrastructure: &translate.Infrastructure{
		Owner: "1", Service: "shop-cloud", Ports: []translate.InfrastructurePort{{Port: 443, Protocol: corev1.ProtocolTCP}}}}}
	if _, err := w.maker.Apply(t.Context(), statuses, nil); err == nil || !strings.Contains(err.Error(), "not Sluice's") {
		t.Errorf("error %v", err)
	}
	if now := w.service(); now.ResourceVersion != theirs.ResourceVersion {
		t.Error("it was changed")
	}
}

func TestAServiceGoesWhenItIsNotAskedForAndStaysWhenNothingIsKnown(t *testing.T) {
	w := newWorld(t)
	w.must()
	config := w.in.GatewayConfigs
	w.in.GatewayConfigs = nil // the class is not accepted
	w.must()
	w.service()
	w.in.GatewayConfigs = config
	w.in.Gateways[0].Spec.Infrastructure = nil
	w.in.Gateways[0].Spec.Addresses = []gwv1.GatewaySpecAddress{{Value: "192.0.2.1"}}
	w.must()
	if _, err := w.admin.CoreV1().Services(w.ns).Get(t.Context(), "shop-cloud", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestTheTrafficPolicyIsThatOfTheGatewayConfig(t *testing.T) {
	w := newWorld(t)
	local := corev1.ServiceExternalTrafficPolicyLocal
	config := &w.in.GatewayConfigs[0].Spec.Addresses
	config.LoadBalancer = &v1alpha1.LoadBalancer{ExternalTrafficPolicy: &local}
	for _, want := range []corev1.ServiceExternalTrafficPolicy{local, corev1.ServiceExternalTrafficPolicyCluster} {
		w.must()
		if got := w.service().Spec.ExternalTrafficPolicy; got != want {
			t.Errorf("externalTrafficPolicy %s, want %s", got, want)
		}
		config.LoadBalancer = nil
	}
}

// Without the rights of services.yaml the Gateway is told which one is missing
// and where it is, and no longer once they are there.
func TestAGatewayIsToldWhichRightIsMissing(t *testing.T) {
	w := newWorld(t)
	account := rbacv1.Subject{Kind: "ServiceAccount", Namespace: w.ns, Name: "lesser"}
	grant := func(role string) {
		t.Helper()
		_, err := w.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{GenerateName: "lesser-"},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{account}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.admin.CoreV1().ServiceAccounts(w.ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account.Name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config, err := server.ServiceAccount(t.Context(), w.ns, account.Name)
	if err != nil {
		t.Fatal(err)
	}
	w.maker = &infrastructure.Maker{Client: kubernetes.NewForConfigOrDie(config)}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("waiting for ", what)
			}
		}
	}
	programmed := func() string {
		status, _ := w.step()
		return meta.FindStatusCondition(status.Conditions, "Programmed").Message
	}
	grant("sluice-controller") // which may read
	until("the missing right", func() bool {
		m := programmed()
		return strings.Contains(m, `cannot patch resource "services"`) && strings.Contains(m, "deploy/kubernetes/services.yaml")
	})
	if may, err := w.maker.Permitted(t.Context()); may || err != nil {
		t.Errorf("permitted %v, %v", may, err)
	}
	grant("sluice-controller-services")
	until("the rights", func() bool { may, err := w.maker.Permitted(t.Context()); return may && err == nil })
	until("the Service", func() bool { return strings.Contains(programmed(), "has no address yet") })
	w.service()
}
