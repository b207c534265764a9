// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"

	"github.com/sluice-gateway/sluice/controller/translate"
)

func TestSupportedFeaturesAreThoseThatTheGatewayAPIKnows(t *testing.T) {
	statuses := translate.Translate(translate.Resources{GatewayClasses: []*gwv1.GatewayClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "sluice"}, Spec: gwv1.GatewayClassSpec{ControllerName: controllerName}}}},
		translate.Options{ControllerName: controllerName, Now: now}).Statuses(translate.Feedback{})
	var names []string
	for _, f := range statuses[0].GatewayClass.SupportedFeatures {
		names = append(names, string(f.Name))
		if !slices.ContainsFunc(features.AllFeatures.UnsortedList(), func(o features.Feature) bool { return string(o.Name) == string(f.Name) }) {
			t.Errorf("%s is no feature", f.Name)
		}
	}
	if !slices.Contains(names, "GatewayInfrastructure") {
		t.Error("GatewayInfrastructure is missing")
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) || len(names) == 0 {
		t.Errorf("features are not sorted, or one is there twice: %s", names)
	}
}

// Labels and annotations of a Gateway are those of a Service.
func TestWithoutServicesThereIsNoInfrastructure(t *testing.T) {
	statuses := translate.Translate(translate.Resources{GatewayClasses: []*gwv1.GatewayClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "sluice"}, Spec: gwv1.GatewayClassSpec{ControllerName: controllerName}}}},
		translate.Options{ControllerName: controllerName, Now: now}).Statuses(translate.Feedback{NoServices: true})
	if slices.ContainsFunc(statuses[0].GatewayClass.SupportedFeatures, func(f gwv1.SupportedFeature) bool { return f.Name == "GatewayInfrastructure" }) {
		t.Error("it is claimed all the same")
	}
}
