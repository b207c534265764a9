// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"
)

// Apply applies YAML documents as an administrator, in their order, the way
// kubectl apply --server-side does.
func (s *Server) Apply(ctx context.Context, documents []byte) error {
	objects, err := decode(documents)
	if err != nil {
		return err
	}
	return s.apply(ctx, objects)
}

func (s *Server) apply(ctx context.Context, objects []*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(s.admin)
	if err != nil {
		return err
	}
	discoverer, err := discovery.NewDiscoveryClientForConfig(s.admin)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discoverer))
	for _, o := range objects {
		what := fmt.Sprintf("apply %s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
		kind := o.GroupVersionKind()
		mapping, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		options := metav1.ApplyOptions{FieldManager: "test", Force: true}
		if _, err := client.Resource(mapping.Resource).Namespace(o.GetNamespace()).Apply(ctx, o.GetName(), o, options); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// decode reads YAML documents; empty ones are left out.
func decode(documents []byte) (all []*unstructured.Unstructured, err error) {
	for r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(documents))); ; {
		document, err := r.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(document, &o.Object); err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			all = append(all, o)
		}
	}
}
