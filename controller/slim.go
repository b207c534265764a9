// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwv1a2 "sigs.k8s.io/gateway-api/apis/v1alpha2"

	"github.com/sluice-gateway/sluice/controller/infrastructure"
)

// slim is what is kept of an object: nothing that takes memory and that nobody
// reads. Older versions become the one that the translator knows.
func slim(in any) (any, error) {
	o, ok := in.(metav1.Object)
	if !ok {
		return in, nil // a note that an object was deleted
	}
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	switch o := in.(type) {
	case *metav1.PartialObjectMetadata:
		// Secrets and ConfigMaps: when they changed, and which are our own.
		maps.DeleteFunc(annotations, func(k, _ string) bool { return !strings.HasPrefix(k, "sluice.dev/") })
		maps.DeleteFunc(o.Labels, func(k, _ string) bool { return !strings.HasPrefix(k, "sluice.dev/") })
		o.OwnerReferences, o.Finalizers = nil, nil
	case *corev1.Namespace:
		o.Annotations, o.Spec, o.Status = nil, corev1.NamespaceSpec{}, corev1.NamespaceStatus{}
	case *corev1.Service:
		if !infrastructure.Owned(o) {
			o.Annotations, o.Status = nil, corev1.ServiceStatus{}
		}
	case *apiextensionsv1.CustomResourceDefinition:
		for i := range o.Spec.Versions {
			v := &o.Spec.Versions[i]
			*v = apiextensionsv1.CustomResourceDefinitionVersion{Name: v.Name, Served: v.Served}
		}
		o.Spec.Conversion = nil
	case *gwv1a2.TCPRoute:
		return convert(o, &gwv1.TCPRoute{})
	case *gwv1a2.UDPRoute:
		return convert(o, &gwv1.UDPRoute{})
	}
	return in, nil
}

// convert makes an object of another version that has the same fields.
func convert[T client.Object](from client.Object, to T) (T, error) {
	text, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(text, to)
	}
	return to, err
}

// sameButVersion tells whether two states of an object differ in nothing but
// the resourceVersion. Of metadata alone it cannot tell.
func sameButVersion(a, b client.Object) bool {
	if a.GetResourceVersion() == b.GetResourceVersion() {
		return true
	}
	if _, metadata := a.(*metav1.PartialObjectMetadata); metadata {
		return false
	}
	if a.GetUID() != b.GetUID() || a.GetGeneration() != b.GetGeneration() {
		return false
	}
	c := a.DeepCopyObject().(client.Object)
	c.SetResourceVersion(b.GetResourceVersion())
	return equality.Semantic.DeepEqual(c, b)
}
