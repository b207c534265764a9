// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"strings"

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
