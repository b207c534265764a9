// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/sluice-gateway/sluice/controller/v1alpha1"
	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

// TestTheAPIServerChecksAGatewayConfig gives a real API server what it must
// take, and what it must refuse and why.
func TestTheAPIServerChecksAGatewayConfig(t *testing.T) {
	server, err := apiserver.Start(t.Context(), apiserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	apply := func(name, spec string) error {
		return server.Apply(t.Context(), fmt.Appendf(nil,
			"apiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {name: %s, namespace: default}\nspec: %s\n", name, spec))
	}
	class := "example.com/lb"
	for spec, want := range map[string]v1alpha1.Addresses{
		`{}`:                                    {},
		`{addresses: {}}`:                       {Mode: v1alpha1.AddressModeNode},
		`{addresses: {pools: [2001:db8::/64]}}`: {Mode: v1alpha1.AddressModeNode, Pools: []v1alpha1.AddressRange{"2001:db8::/64"}},
		`{addresses: {mode: Pool, pools: [192.0.2.0/24, "2001:db8::1-2001:db8::9"]}}`: {
			Mode: v1alpha1.AddressModePool, Pools: []v1alpha1.AddressRange{"192.0.2.0/24", "2001:db8::1-2001:db8::9"}},
		`{addresses: {mode: LoadBalancer, loadBalancer: {class: example.com/lb, annotations: {a: b}}}}`: {
			Mode: v1alpha1.AddressModeLoadBalancer, LoadBalancer: &v1alpha1.LoadBalancer{Class: &class, Annotations: map[string]string{"a": "b"}}},
	} {
		if err := apply("good", spec); err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if diff := cmp.Diff(want, read(t, server, "good").Spec.Addresses); diff != "" {
			t.Errorf("%s (-want +got):\n%s", spec, diff)
		}
		// Apply merges; the next one begins with nothing.
		if err := client(t, server).Delete().Namespace("default").Resource("gatewayconfigs").Name("good").Do(t.Context()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	for spec, want := range map[string]string{
		`{addresses: {mode: Cloud}}`:                      `supported values: "Node", "Pool", "LoadBalancer"`,
		`{addresses: {mode: Pool}}`:                       "pools are required with mode Pool",
		`{addresses: {mode: Pool, pools: []}}`:            "pools are required with mode Pool",
		`{addresses: {loadBalancer: {class: x}}}`:         "loadBalancer can only be set with mode LoadBalancer",
		`{addresses: {pools: [192.0.2.1]}}`:               "must be a CIDR",
		`{addresses: {pools: ["192.0.2.1-2001:db8::1"]}}`: "must be a CIDR",
		`{addresses: {pools: ["192.0.2.1-9"]}}`:           "must be a CIDR",
		`{addresses: {pools: [a, a]}}`:                    "duplicate entries",
	} {
		if err := apply("bad", spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
}

// client reads through the scheme of the package.
func client(t *testing.T, server *apiserver.Server) *rest.RESTClient {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	config := server.Config()
	config.APIPath, config.GroupVersion = "/apis", &v1alpha1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t *testing.T, server *apiserver.Server, name string) *v1alpha1.GatewayConfig {
	t.Helper()
	out := &v1alpha1.GatewayConfig{}
	if err := client(t, server).Get().Namespace("default").Resource("gatewayconfigs").Name(name).Do(t.Context()).Into(out); err != nil {
		t.Fatal(err)
	}
	return out
}
