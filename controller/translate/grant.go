// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// reference is from an object to another one that may be in another namespace.
type reference struct {
	fromKind, fromNamespace string // group gateway.networking.k8s.io
	toKind                  string // core group
	to                      name
}

// permitted tells whether a ReferenceGrant in the namespace of the target, and
// in no other, allows the reference. A grant next to the referrer would let
// everybody help themselves (as in Cilium, GHSA-r7wr-4w5q-55m6).
func (t *translator) permitted(r reference) bool {
	if r.fromNamespace == r.to.namespace {
		return true
	}
	for _, g := range t.in.ReferenceGrants {
		if g.Namespace == r.to.namespace && grantsFrom(g, r) && grantsTo(g, r) {
			return true
		}
	}
	return false
}

func grantsFrom(g *gwv1.ReferenceGrant, r reference) bool {
	for _, f := range g.Spec.From {
		if f.Group == gwv1.GroupName && string(f.Kind) == r.fromKind && string(f.Namespace) == r.fromNamespace {
			return true
		}
	}
	return false
}

func grantsTo(g *gwv1.ReferenceGrant, r reference) bool {
	for _, to := range g.Spec.To {
		if to.Group == "" && string(to.Kind) == r.toKind && (to.Name == nil || string(*to.Name) == r.to.name) {
			return true
		}
	}
	return false
}

// forbidden is the message for a reference that no grant allows. It says the
// same whether the target exists or not.
func (r reference) forbidden() string {
	return fmt.Sprintf("%s %s is in another namespace and no ReferenceGrant allows it; "+
		"add a ReferenceGrant in namespace %q from %s in namespace %q to %s %q",
		r.toKind, r.to, r.to.namespace, r.fromKind, r.fromNamespace, r.toKind, r.to.name)
}
