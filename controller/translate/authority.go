// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/translate/keypair"
)

// AuthorityKey is where a ConfigMap has its CA certificates (Gateway API,
// caCertificateRefs).
const AuthorityKey = "ca.crt"

// authority is the CA certificates of a ConfigMap.
type authority struct {
	config config.Authority
	// problem is why there are none. A ConfigMap that turned bad is not served
	// from memory as a certificate is: whom to trust is not to be guessed.
	problem  string
	warnings []string
}

// authority reads a ConfigMap once.
func (t *translator) authority(from Key, at name) *authority {
	a := t.authorities[at]
	if a != nil {
		return a
	}
	a = &authority{config: config.Authority{Name: at.String()}}
	t.authorities[at] = a
	object := t.configMaps[at]
	if object == nil && t.assume(Reference{from, Key{"ConfigMap", at.namespace, at.name}}) {
		return a
	} else if object == nil {
		a.problem = t.in.absent(Key{"ConfigMap", at.namespace, at.name}, "create it, or correct the name")
		return a
	}
	bundle, err := keypair.ParseBundle(AuthorityKey, []byte(object.Data[AuthorityKey]))
	if err != nil {
		a.problem = fmt.Sprintf("ConfigMap %s: %s", at, err)
		return a
	}
	a.config.Bundle = bundle.PEM
	for _, w := range bundle.Warnings(t.Now) {
		a.warnings = append(a.warnings, fmt.Sprintf("ConfigMap %s: %s", at, w))
	}
	return a
}

// validateClients reads what the Gateway asks of the clients of a listener
// (spec.tls.frontend). It holds for protocol HTTPS only (GEP-91).
func (t *translator) validateClients(l *listener) {
	v, field := l.gateway.clientValidation(l.spec.Port)
	if v == nil || l.spec.Protocol != gwv1.HTTPSProtocolType {
		return
	}
	refuse := func(reason gwv1.ListenerConditionReason, format string, args ...any) {
		l.refs = append(l.refs, verdict{string(reason), fmt.Sprintf("%s of %s: ", field, l.gateway) + fmt.Sprintf(format, args...)})
	}
	out := &config.ClientValidation{Optional: v.Mode == gwv1.AllowInsecureFallback}
	for _, ref := range v.CACertificateRefs {
		if ref.Group != "" || ref.Kind != "ConfigMap" {
			refuse(gwv1.ListenerReasonInvalidCACertificateKind,
				"%q has kind %s of group %q; only ConfigMap of group \"\" is supported", ref.Name, ref.Kind, ref.Group)
			continue
		}
		at := name{string(value(ref.Namespace, gwv1.Namespace(l.gateway.namespace))), string(ref.Name)}
		use := Reference{l.gateway.key(), Key{"ConfigMap", at.namespace, at.name}}
		if !t.permitted(use) {
			refuse(gwv1.ListenerReasonRefNotPermitted, "%s", use.forbidden())
			continue
		}
		a := t.authority(use.From, at)
		if a.problem != "" {
			refuse(gwv1.ListenerReasonInvalidCACertificateRef, "%s", a.problem)
			continue
		}
		l.warnings = append(l.warnings, a.warnings...)
		if !slices.Contains(out.Authorities, a.config.Name) {
			out.Authorities = append(out.Authorities, a.config.Name)
		}
	}
	if len(out.Authorities) > 0 {
		l.tls.ClientValidation = out
		return
	}
	if l.accepted.ok() {
		l.accepted = verdict{string(gwv1.ListenerReasonNoValidCACertificate), field + " of " + l.gateway.String() +
			" has no CA certificate to verify clients by, see ResolvedRefs; the listener is not served without it"}
	}
}

// clientValidation returns the frontend validation that holds for a port and
// its field, nil for none: an entry of perPort replaces the default.
func (g *gateway) clientValidation(port gwv1.PortNumber) (*gwv1.FrontendTLSValidation, string) {
	if g.object.Spec.TLS == nil || g.object.Spec.TLS.Frontend == nil {
		return nil, ""
	}
	f := g.object.Spec.TLS.Frontend
	for i, p := range f.PerPort {
		if p.Port == port {
			return p.TLS.Validation, fmt.Sprintf("spec.tls.frontend.perPort[%d]", i)
		}
	}
	return f.Default.Validation, "spec.tls.frontend.default"
}

// insecureFallback is the condition of a Gateway that serves clients whatever
// certificate they show; the zero condition says that it does not.
func (g *gateway) insecureFallback() condition {
	if g.object.Spec.TLS == nil || g.object.Spec.TLS.Frontend == nil {
		return condition{}
	}
	f := g.object.Spec.TLS.Frontend
	insecure := func(v *gwv1.FrontendTLSValidation) bool { return v != nil && v.Mode == gwv1.AllowInsecureFallback }
	var where []string
	if insecure(f.Default.Validation) {
		where = append(where, "spec.tls.frontend.default")
	}
	for _, p := range f.PerPort {
		if insecure(p.TLS.Validation) {
			where = append(where, fmt.Sprintf("spec.tls.frontend.perPort for port %d", p.Port))
		}
	}
	if len(where) == 0 {
		return condition{}
	}
	return condition{string(gwv1.GatewayConditionInsecureFrontendValidationMode), "True", string(gwv1.GatewayReasonConfigurationChanged),
		fmt.Sprintf("%s: mode AllowInsecureFallback serves clients without a certificate, or with one that does not verify; "+
			"the access log says who they are; set mode AllowValidOnly once all have one", strings.Join(where, ", "))}
}
