// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// referredSecrets are the Secrets that Gateways of ours refer to. Whether they
// may is for the translator to say.
func referredSecrets(r *translate.Resources) map[types.NamespacedName]bool {
	classes := ownClasses(r)
	out := map[types.NamespacedName]bool{}
	add := func(namespace string, refs ...gwv1.SecretObjectReference) {
		for _, ref := range refs {
			n := types.NamespacedName{Namespace: namespace, Name: string(ref.Name)}
			if ref.Namespace != nil {
				n.Namespace = string(*ref.Namespace)
			}
			out[n] = true
		}
	}
	ours := map[types.NamespacedName]bool{}
	for _, g := range r.Gateways {
		if !classes[g.Spec.GatewayClassName] {
			continue
		}
		ours[types.NamespacedName{Namespace: g.Namespace, Name: g.Name}] = true
		for _, l := range g.Spec.Listeners {
			if l.TLS != nil {
				add(g.Namespace, l.TLS.CertificateRefs...)
			}
		}
		if t := g.Spec.TLS; t != nil && t.Backend != nil && t.Backend.ClientCertificateRef != nil {
			add(g.Namespace, *t.Backend.ClientCertificateRef)
		}
	}
	for _, s := range r.ListenerSets {
		parent := types.NamespacedName{Namespace: s.Namespace, Name: string(s.Spec.ParentRef.Name)}
		if n := s.Spec.ParentRef.Namespace; n != nil {
			parent.Namespace = string(*n)
		}
		if !ours[parent] {
			continue
		}
		for _, l := range s.Spec.Listeners {
			if l.TLS != nil {
				add(s.Namespace, l.TLS.CertificateRefs...)
			}
		}
	}
	return out
}

// referredConfigMaps are the ConfigMaps with CA certificates that Gateways of
// ours and BackendTLSPolicies refer to.
func referredConfigMaps(r *translate.Resources) map[types.NamespacedName]bool {
	classes := ownClasses(r)
	out := map[types.NamespacedName]bool{}
	for _, g := range r.Gateways {
		if !classes[g.Spec.GatewayClassName] || g.Spec.TLS == nil || g.Spec.TLS.Frontend == nil {
			continue
		}
		validations := []*gwv1.FrontendTLSValidation{g.Spec.TLS.Frontend.Default.Validation}
		for _, p := range g.Spec.TLS.Frontend.PerPort {
			validations = append(validations, p.TLS.Validation)
		}
		for _, v := range validations {
			if v == nil {
				continue
			}
			for _, ref := range v.CACertificateRefs {
				n := types.NamespacedName{Namespace: g.Namespace, Name: string(ref.Name)}
				if ref.Namespace != nil {
					n.Namespace = string(*ref.Namespace)
				}
				if ref.Group == "" && ref.Kind == configMapKind {
					out[n] = true
				}
			}
		}
	}
	for _, p := range r.BackendTLSPolicies {
		for _, ref := range p.Spec.Validation.CACertificateRefs {
			if ref.Group == "" && ref.Kind == configMapKind {
				out[types.NamespacedName{Namespace: p.Namespace, Name: string(ref.Name)}] = true
			}
		}
	}
	return out
}

func ownClasses(r *translate.Resources) map[gwv1.ObjectName]bool {
	classes := map[gwv1.ObjectName]bool{}
	for _, c := range r.GatewayClasses {
		classes[gwv1.ObjectName(c.Name)] = c.Spec.ControllerName == ControllerName
	}
	return classes
}
