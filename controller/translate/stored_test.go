// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// decodeStored reads objects as a client of an API server gets them.
func decodeStored(t testing.TB, data []byte, into *translate.Resources) {
	t.Helper()
	for doc := range strings.SplitSeq(string(data), "\n---\n") {
		var head metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatal(err)
		}
		switch head.Kind {
		case "GatewayClass":
			decodeOne(t, doc, &into.GatewayClasses)
		case "GatewayConfig":
			decodeOne(t, doc, &into.GatewayConfigs)
		case "Gateway":
			decodeOne(t, doc, &into.Gateways)
		case "ListenerSet":
			decodeOne(t, doc, &into.ListenerSets)
		case "TCPRoute":
			decodeOne(t, doc, &into.TCPRoutes)
		case "TLSRoute":
			decodeOne(t, doc, &into.TLSRoutes)
		case "UDPRoute":
			decodeOne(t, doc, &into.UDPRoutes)
		case "HTTPRoute":
			decodeOne(t, doc, &into.HTTPRoutes)
		case "ReferenceGrant":
			decodeOne(t, doc, &into.ReferenceGrants)
		case "BackendTLSPolicy":
			decodeOne(t, doc, &into.BackendTLSPolicies)
		case "Namespace":
			decodeOne[corev1.Namespace](t, doc, &into.Namespaces)
		case "Secret":
			decodeOne[corev1.Secret](t, doc, &into.Secrets)
		case "ConfigMap":
			decodeOne[corev1.ConfigMap](t, doc, &into.ConfigMaps)
		case "Service":
			decodeOne[corev1.Service](t, doc, &into.Services)
		case "EndpointSlice":
			decodeOne[discoveryv1.EndpointSlice](t, doc, &into.EndpointSlices)
		default:
			t.Fatalf("kind %q has no place in a case", head.Kind)
		}
	}
}

func decodeOne[T any](t testing.TB, doc string, into *[]*T) {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), o); err != nil {
		t.Fatal(err)
	}
	*into = append(*into, o)
}
