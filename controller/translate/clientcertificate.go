// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// readClientCertificate finds the certificate that the Gateway shows to
// backends (spec.tls.backend). Without one they are spoken to all the same: a
// backend that asks for a certificate and needs it refuses.
func (t *translator) readClientCertificate(g *gateway) {
	if g.object.Spec.TLS == nil || g.object.Spec.TLS.Backend == nil || g.object.Spec.TLS.Backend.ClientCertificateRef == nil {
		return
	}
	c, v := t.certificateOf(Key{"Gateway", g.namespace, g.name.name}, *g.object.Spec.TLS.Backend.ClientCertificateRef,
		"spec.tls.backend.clientCertificateRef", string(gwv1.GatewayReasonInvalidClientCertificateRef))
	g.client = c
	message := "all references are resolved"
	switch {
	case c == nil:
		v.message += "; backends are shown no certificate"
	case !c.forClients:
		message = fmt.Sprintf("Secret %s: the certificate is not for clients (extended key usage without clientAuth), so backends refuse it; request one that is", c.config.Name)
	case len(c.expiry) > 0:
		message = fmt.Sprintf("Secret %s: %s", c.config.Name, strings.Join(c.expiry, "; "))
	}
	g.refs = append(g.refs, v.is(string(gwv1.GatewayConditionResolvedRefs), string(gwv1.GatewayReasonResolvedRefs), message))
}

// resolvedRefs is the ResolvedRefs condition, which sums up those of the listeners,
// too.
func (g *gateway) resolvedRefs() []condition {
	if len(g.refs) == 0 || g.refs[0].status != metav1.ConditionTrue {
		return g.refs
	}
	var bad []string
	for _, l := range g.own {
		if !first(l.refs).ok() {
			bad = append(bad, fmt.Sprintf("%q", l.spec.Name))
		}
	}
	if len(bad) == 0 {
		return g.refs
	}
	return []condition{{string(gwv1.GatewayConditionResolvedRefs), metav1.ConditionFalse, string(gwv1.GatewayReasonListenersNotResolved),
		"references of listeners are not resolved, see their conditions: " + strings.Join(bad, ", ")}}
}

// showsCertificate tells whether a listener has a backend that may ask for the
// Gateway's certificate. Nodes get no key without that.
func (t *translator) showsCertificate(l *listener) bool {
	if l.gateway.client == nil || l.passthrough {
		return false
	}
	secure := func(backend string) bool {
		b := t.backends[backend]
		return b != nil && b.config.TLS != nil && b.config.TLS.Refused == ""
	}
	for _, r := range l.l4 {
		for _, b := range r.backends {
			if secure(b.Backend) {
				return true
			}
		}
	}
	for _, rules := range l.http {
		for _, r := range rules {
			for _, b := range r.Backends {
				if secure(b.Backend) {
					return true
				}
			}
		}
	}
	return false
}
