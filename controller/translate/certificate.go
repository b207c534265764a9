// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/translate/keypair"
)

// certificate is what a Secret holds, or held when it was last good.
type certificate struct {
	config config.Certificate
	// names are those that the leaf is valid for.
	names []string
	// problem is why the Secret as it stands is no good.
	problem string
	// warnings are about what is served.
	warnings []string
	usable   bool
}

// resolveCertificates finds the certificates of all listeners that terminate
// TLS. One that cannot be had takes away nothing but itself.
func (t *translator) resolveCertificates() {
	for _, g := range t.gateways {
		for _, l := range g.listeners {
			if !l.encrypted() || l.passthrough {
				continue
			}
			if l.spec.TLS == nil || len(l.spec.TLS.CertificateRefs) == 0 {
				l.refs = append(l.refs, verdict{string(gwv1.ListenerReasonInvalidCertificateRef),
					"there is no certificate; add the Secret to tls.certificateRefs"})
				continue
			}
			for _, ref := range l.spec.TLS.CertificateRefs {
				t.addCertificate(l, ref)
			}
		}
	}
}

func (t *translator) addCertificate(l *listener, ref gwv1.SecretObjectReference) {
	refuse := func(reason gwv1.ListenerConditionReason, format string, args ...any) {
		l.refs = append(l.refs, verdict{string(reason), fmt.Sprintf(format, args...)})
	}
	group, kind := value(ref.Group, ""), value(ref.Kind, "Secret")
	if group != "" || kind != "Secret" {
		refuse(gwv1.ListenerReasonInvalidCertificateRef,
			"certificateRef %q has kind %s of group %q; only Secret of group \"\" is supported", ref.Name, kind, group)
		return
	}
	from := l.parent()
	at := name{string(value(ref.Namespace, gwv1.Namespace(from.Namespace))), string(ref.Name)}
	use := reference{fromKind: from.Kind, fromNamespace: from.Namespace, toKind: "Secret", to: at}
	if !t.permitted(use) {
		refuse(gwv1.ListenerReasonRefNotPermitted, "%s", use.forbidden())
		return
	}
	secret := t.secrets[at]
	if secret == nil {
		refuse(gwv1.ListenerReasonInvalidCertificateRef, "Secret %s does not exist", at)
		return
	}
	c := t.certificates[at]
	if c == nil {
		c = t.readCertificate(at, secret)
		t.certificates[at] = c
	}
	if c.problem != "" {
		text := fmt.Sprintf("Secret %s: %s", at, c.problem)
		if c.usable {
			text += "; its last good certificate is still served"
		}
		refuse(gwv1.ListenerReasonInvalidCertificateRef, "%s", text)
	}
	if !c.usable || slices.Contains(l.certificates, c) {
		return
	}
	l.certificates = append(l.certificates, c)
	for _, w := range c.warnings {
		l.warnings = append(l.warnings, fmt.Sprintf("Secret %s: %s", at, w))
	}
	if l.hostname != "" && len(c.names) > 0 && !slices.ContainsFunc(c.names, func(n string) bool { return covers(n, l.hostname) }) {
		l.warnings = append(l.warnings, fmt.Sprintf("Secret %s: the certificate is for %s, not for the listener's hostname %q",
			at, strings.Join(c.names, ", "), l.hostname))
	}
}

// covers tells whether a name of a certificate is any use on a listener.
func covers(certificate, hostname string) bool {
	if strings.HasPrefix(hostname, "*.") {
		return strings.EqualFold(certificate, hostname) || strings.HasSuffix(strings.ToLower(certificate), hostname[1:])
	}
	_, ok := intersectNames(certificate, hostname)
	return ok
}

func (t *translator) readCertificate(at name, s *corev1.Secret) *certificate {
	c := &certificate{}
	pair, err := keypair.Parse(s.Data[corev1.TLSCertKey], s.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		c.problem = err.Error()
		last, ok := t.previous[at.String()]
		if !ok {
			return c
		}
		// Read again for names and warnings; it was good.
		if pair, err = keypair.Parse(last.Chain, last.Key); err != nil {
			return c
		}
	}
	c.usable = true
	c.config = config.Certificate{Name: at.String(), Chain: pair.Chain, Key: pair.Key}
	c.names = pair.Names
	c.warnings = pair.Warnings(t.Now)
	return c
}
