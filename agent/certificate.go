// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// What certificates are for: a label of sluice_certificate_expiry_timestamp_seconds.
const (
	UseServer    = "server"     // shown to clients
	UseClient    = "client"     // shown to backends that ask for one
	UseClientCA  = "client_ca"  // verifies those of clients
	UseBackendCA = "backend_ca" // verifies those of backends
)

// CertificateStatus tells about the leaf of a certificate, or of a bundle of CA
// certificates about the one that expires last: until then the bundle is good
// for something.
type CertificateStatus struct {
	// Name is that of its Secret, or ConfigMap.
	Name string `json:"name"`
	// Uses are what it is for, sorted. A Secret may have several.
	Uses     []string `json:"uses"`
	Subject  string   `json:"subject,omitempty"`
	Issuer   string   `json:"issuer,omitempty"`
	DNSNames []string `json:"dnsNames,omitempty"`
	// KeyType is like "ECDSA P-256" or "RSA 2048".
	KeyType string `json:"keyType,omitempty"`
	// Chain are the subjects of the certificates behind the leaf.
	Chain     []string  `json:"chain,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
}

// text names it for people.
func (c *CertificateStatus) text() string {
	if slices.Contains(c.Uses, UseClientCA) || slices.Contains(c.Uses, UseBackendCA) {
		return fmt.Sprintf("the last CA certificate of %s (%s)", c.Name, c.Subject)
	}
	return "certificate " + c.Name
}

// uses tells what the certificates and the CA certificates of a snapshot are
// for, by name.
func uses(s *config.Snapshot) (certificates, authorities map[string][]string) {
	certificates, authorities = map[string][]string{}, map[string][]string{}
	add := func(to map[string][]string, use string, names ...string) {
		for _, n := range names {
			if n != "" && !slices.Contains(to[n], use) {
				to[n] = append(to[n], use)
				slices.Sort(to[n])
			}
		}
	}
	for i := range s.Listeners {
		l := &s.Listeners[i]
		add(certificates, UseClient, l.BackendCertificate)
		if l.TLS != nil {
			add(certificates, UseServer, l.TLS.Certificates...)
			if v := l.TLS.ClientValidation; v != nil {
				add(authorities, UseClientCA, v.Authorities...)
			}
		}
	}
	for i := range s.Backends {
		if t := s.Backends[i].TLS; t != nil {
			add(authorities, UseBackendCA, t.Authorities...)
		}
	}
	return certificates, authorities
}

// Describe tells about the certificates of a snapshot, which has none that do
// not parse.
func Describe(s *config.Snapshot) []CertificateStatus {
	out := make([]CertificateStatus, 0, len(s.Certificates)+len(s.Authorities))
	certificates, authorities := uses(s)
	for _, c := range s.Certificates {
		of := CertificateStatus{Name: c.Name, Uses: certificates[c.Name]}
		if all := parse(c.Chain); len(all) > 0 {
			of.fill(all[0])
			for _, issuer := range all[1:] {
				of.Chain = append(of.Chain, issuer.Subject.String())
			}
		}
		out = append(out, of)
	}
	for _, a := range s.Authorities {
		of := CertificateStatus{Name: a.Name, Uses: authorities[a.Name]}
		if all := parse(a.Bundle); len(all) > 0 {
			of.fill(slices.MaxFunc(all, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }))
		}
		out = append(out, of)
	}
	return out
}

// DescribeCertificate tells about a certificate of anybody.
func DescribeCertificate(of *x509.Certificate) (c CertificateStatus) {
	c.fill(of)
	return c
}

func (c *CertificateStatus) fill(of *x509.Certificate) {
	c.Subject, c.Issuer, c.DNSNames = of.Subject.String(), of.Issuer.String(), of.DNSNames
	c.NotBefore, c.NotAfter, c.KeyType = of.NotBefore, of.NotAfter, keyType(of)
}

// parse returns the certificates of PEM, as far as they can be read.
func parse(text []byte) (out []*x509.Certificate) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
	return out
}

func keyType(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}
