// SPDX-License-Identifier: Apache-2.0

package keypair

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of a bundle. The CAs that browsers trust are about 150 certificates
// in 220 KiB.
const (
	maxBundle      = 512 << 10
	maxAuthorities = 1000
)

// Bundle is CA certificates to verify others by, in clean PEM.
type Bundle struct {
	// PEM has each certificate once, in the order that they were given in.
	PEM []byte

	certificates []*x509.Certificate
}

// ParseBundle reads the CA certificates of a field, in the forms that [Parse]
// takes. One that cannot be read is an error: what it would have let in or
// kept out cannot be told. One that expired is none, see [Bundle.Warnings].
func ParseBundle(field string, in []byte) (*Bundle, error) {
	in, err := text(field, in, maxBundle)
	if err != nil {
		return nil, err
	}
	certificates, err := readCertificates(field, in, maxAuthorities, "only the CAs that are to be trusted")
	if err != nil {
		return nil, err
	}
	b := &Bundle{}
	seen := map[[sha256.Size]byte]bool{}
	for _, c := range certificates {
		sum := sha256.Sum256(c.Raw)
		if !seen[sum] {
			seen[sum] = true
			b.certificates = append(b.certificates, c)
			b.PEM = append(b.PEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
	}
	return b, nil
}

// Warnings says what of the bundle is no use at a moment. A bundle of which a
// part expired, as large ones have it all the time, is none.
func (b *Bundle) Warnings(now time.Time) []string {
	expired := func(c *x509.Certificate) bool { return now.After(c.NotAfter) }
	if slices.ContainsFunc(b.certificates, func(c *x509.Certificate) bool { return !expired(c) }) {
		return nil
	}
	last := slices.MaxFunc(b.certificates, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	return []string{fmt.Sprintf("every CA certificate in it expired, the last one (%s) on %s; renew them",
		last.Subject, last.NotAfter.UTC().Format(time.RFC3339))}
}

// readCertificates reads all certificates of a field, at most limit.
func readCertificates(field string, in []byte, limit int, leave string) ([]*x509.Certificate, error) {
	blocks, err := decode(field, in)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	keys := 0
	for _, b := range blocks {
		switch b.Type {
		case "CERTIFICATE", "X509 CERTIFICATE":
		case "TRUSTED CERTIFICATE":
			return nil, fmt.Errorf("%s holds a TRUSTED CERTIFICATE of OpenSSL; convert it: openssl x509 -in %s -out plain.crt", field, field)
		case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
			return nil, fmt.Errorf("%s holds a certificate request, not a certificate; put the certificate there that the CA made of it", field)
		default:
			if strings.HasSuffix(b.Type, "PRIVATE KEY") {
				keys++
			}
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d: %s", field, len(out)+1, strings.TrimPrefix(err.Error(), "x509: "))
		}
		if bits := rsaBits(c); bits > maxRSA {
			return nil, fmt.Errorf("%s: certificate %d is RSA with %d bits, more than %d", field, len(out)+1, bits, maxRSA)
		}
		if out = append(out, c); len(out) > limit {
			return nil, fmt.Errorf("%s has more than %d certificates; leave %s", field, limit, leave)
		}
	}
	switch {
	case len(out) == 0 && keys > 0:
		return nil, swapped(field)
	case len(out) == 0:
		return nil, errors.New(field + " has no certificate; it must have a block -----BEGIN CERTIFICATE-----")
	}
	return out, nil
}

func swapped(field string) error {
	if field == "tls.crt" {
		return errors.New("tls.crt holds a private key and no certificate; are tls.crt and tls.key swapped?")
	}
	return errors.New(field + " holds a private key and no certificate; put the certificate of the CA there")
}
