// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"
	"time"

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
	// expiry and warnings are about what is served.
	expiry   []string
	warnings []keypair.Warning
	notAfter time.Time
	usable   bool
	// forClients tells whether servers may take it from a client.
	forClients bool
}

// resolveCertificates finds the certificates of all listeners that terminate
// TLS. One that cannot be had takes away nothing but itself.
func (t *translator) resolveCertificates() {
	for _, g := range t.gateways {
		t.readClientCertificate(g)
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

// certificateOf finds the certificate that an object refers to in a field;
// invalid is the reason for a reference that leads to none. With a verdict
// there may still be the last good one. Without any there is a verdict.
func (t *translator) certificateOf(from Key, ref gwv1.SecretObjectReference, field, invalid string) (*certificate, verdict) {
	refuse := func(format string, args ...any) verdict { return verdict{invalid, fmt.Sprintf(format, args...)} }
	group, kind := value(ref.Group, ""), value(ref.Kind, "Secret")
	if group != "" || kind != "Secret" {
		return nil, refuse("%s %q has kind %s of group %q; only Secret of group \"\" is supported", field, ref.Name, kind, group)
	}
	at := name{string(value(ref.Namespace, gwv1.Namespace(from.Namespace))), string(ref.Name)}
	use := Reference{from, Key{"Secret", at.namespace, at.name}}
	if !t.permitted(use) {
		return nil, verdict{string(gwv1.ListenerReasonRefNotPermitted), use.forbidden()}
	}
	secret := t.secrets[at]
	if secret == nil && t.assume(use) {
		t.certificates[at] = &certificate{config: config.Certificate{Name: at.String()}, usable: true, forClients: true}
		return t.certificates[at], verdict{}
	} else if secret == nil {
		return nil, refuse("%s", t.in.absent(use.To, "create it, or correct the name in "+field))
	}
	c := t.certificates[at]
	if c == nil {
		c = t.readCertificate(at, secret)
		t.certificates[at] = c
	}
	switch {
	case c.problem == "":
		return c, verdict{}
	case c.usable:
		return c, refuse("Secret %s: %s; its last good certificate is still served", at, c.problem)
	}
	return nil, refuse("Secret %s: %s", at, c.problem)
}

func (t *translator) addCertificate(l *listener, ref gwv1.SecretObjectReference) {
	c, v := t.certificateOf(l.parent(), ref, "certificateRef", string(gwv1.ListenerReasonInvalidCertificateRef))
	if !v.ok() {
		l.refs = append(l.refs, v)
	}
	if c == nil || slices.Contains(l.certificates, c) {
		return
	}
	at := c.config.Name
	l.certificates = append(l.certificates, c)
	for _, w := range c.expiry {
		l.warnings = append(l.warnings, fmt.Sprintf("Secret %s: %s", at, w))
	}
	for _, w := range c.warnings {
		l.warnings = append(l.warnings, fmt.Sprintf("Secret %s: %s", at, w.Text))
	}
	if w := l.mismatch(c); w != "" {
		l.warnings = append(l.warnings, fmt.Sprintf("Secret %s: %s", at, w))
	}
}

// mismatch says that a certificate is for other names than the listener.
func (l *listener) mismatch(c *certificate) string {
	if l.hostname == "" || len(c.names) == 0 || slices.ContainsFunc(c.names, func(n string) bool { return covers(n, l.hostname) }) {
		return ""
	}
	return fmt.Sprintf("the certificate is for %s, not for the listener's hostname %q", strings.Join(c.names, ", "), l.hostname)
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
	c.expiry, c.warnings, c.notAfter = pair.Expiry(t.Now), pair.Warnings(), pair.NotAfter()
	c.forClients = pair.ForClients()
	return c
}
