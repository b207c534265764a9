// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Reference is from an object of group gateway.networking.k8s.io to another
// one.
type Reference struct{ From, To Key }

// permitted tells whether a ReferenceGrant in the namespace of the target, and
// in no other, allows the reference. A grant next to the referrer would let
// everybody help themselves (as in Cilium, GHSA-r7wr-4w5q-55m6).
func (t *translator) permitted(r Reference) bool {
	if r.From.Namespace == r.To.Namespace {
		return true
	}
	for _, g := range t.in.ReferenceGrants {
		if g.Namespace == r.To.Namespace && grantsFrom(g, r) && grantsTo(g, r) {
			return true
		}
	}
	if !t.refused[r] {
		t.refused[r] = true
		t.ungranted = append(t.ungranted, r)
	}
	return false
}

// assume tells whether what is referred to and is not there is to be taken as
// good (Options.Partial, Resources.Hidden).
func (t *translator) assume(r Reference) bool {
	if t.Partial && !slices.Contains(t.absent, r) {
		t.absent = append(t.absent, r)
	}
	return t.Partial || t.in.Hidden[r.To]
}

func grantsFrom(g *gwv1.ReferenceGrant, r Reference) bool {
	for _, f := range g.Spec.From {
		if f.Group == gwv1.GroupName && string(f.Kind) == r.From.Kind && string(f.Namespace) == r.From.Namespace {
			return true
		}
	}
	return false
}

func grantsTo(g *gwv1.ReferenceGrant, r Reference) bool {
	for _, to := range g.Spec.To {
		if to.Group == "" && string(to.Kind) == r.To.Kind && (to.Name == nil || string(*to.Name) == r.To.Name) {
			return true
		}
	}
	return false
}

// forbidden is the message for a reference that no grant allows. It says the
// same whether the target exists or not.
func (r Reference) forbidden() string {
	return fmt.Sprintf("%s is in another namespace and no ReferenceGrant allows it; "+
		"add a ReferenceGrant in namespace %q from %s in namespace %q to %s %q",
		r.To, r.To.Namespace, r.From.Kind, r.From.Namespace, r.To.Kind, r.To.Name)
}

// Grant is the ReferenceGrant that allows the reference and nothing else but
// that from objects of the same kind and namespace, in YAML.
func (r Reference) Grant() string {
	group := "\"\"" // Secret, Service, ConfigMap
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata:
  name: %s-%s-to-%s
  namespace: %s
spec:
  from:
  - group: gateway.networking.k8s.io
    kind: %s
    namespace: %s
  to:
  - group: %s
    kind: %s
    name: %s
`, strings.ToLower(r.From.Kind), r.From.Namespace, r.To.Name, r.To.Namespace, r.From.Kind, r.From.Namespace, group, r.To.Kind, r.To.Name)
}
