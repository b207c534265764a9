// SPDX-License-Identifier: Apache-2.0

// Package keypair reads a certificate chain with its private key as people
// keep them, and says in their words what is wrong with it.
package keypair

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of what is read. They keep one Secret from costing every handshake,
// or the translation, more than a certificate is worth: to check a key takes
// time with the cube of its size. RSA keys larger than maxRSA are refused by
// crypto/tls clients.
const (
	maxChain        = 64 << 10
	maxKey          = 16 << 10
	maxCertificates = 10
	maxKeyBytes     = 6 << 10 // of DER; RSA 8192 has 4.7 KiB
	minRSA          = 2048
	maxRSA          = 8192
)

// Pair is a certificate chain with its private key, in clean PEM.
type Pair struct {
	// Chain is the certificates, leaf first, each followed by its issuer as far
	// as they are there.
	Chain []byte
	// Key is the private key in PKCS #8.
	Key []byte
	// Names are the DNS names and IP addresses that the leaf is valid for.
	Names []string

	certificates []*x509.Certificate
	reordered    bool
}

// Parse reads a chain and a key in PEM: in any order and with any line ending,
// with text around, with EC PARAMETERS before the key. The leaf is the
// certificate that the key belongs to. The error says what is wrong, where, and
// how to mend it; it never holds any of the key.
//
// A certificate that expired or is not valid yet is no error, see
// [Pair.Expiry].
func Parse(chain, key []byte) (*Pair, error) {
	chain, err := text("tls.crt", chain, maxChain)
	if err != nil {
		return nil, err
	}
	if key, err = text("tls.key", key, maxKey); err != nil {
		return nil, err
	}
	certificates, err := readCertificates("tls.crt", chain, maxCertificates, "only the leaf and its issuers")
	if err != nil {
		return nil, err
	}
	private, err := readKey(key)
	if err != nil {
		return nil, err
	}
	leaf := slices.IndexFunc(certificates, func(c *x509.Certificate) bool { return samePublic(c.PublicKey, private.Public()) })
	if leaf < 0 {
		return nil, fmt.Errorf("tls.key does not belong to the certificate in tls.crt (%s); "+
			"put the key there that the certificate was requested with", certificates[0].Subject)
	}
	ordered := order(certificates, leaf)
	p := &Pair{certificates: ordered, Names: names(ordered[0]), reordered: !slices.Equal(ordered, certificates)}
	for _, c := range ordered {
		p.Chain = append(p.Chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, errors.New("tls.key: unknown type of key")
	}
	p.Key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return p, nil
}

// Expiry says which certificates are not valid at a moment.
func (p *Pair) Expiry(now time.Time) []string {
	var out []string
	for i, c := range p.certificates {
		what := "the certificate"
		if i > 0 {
			what = fmt.Sprintf("certificate %d of the chain (%s)", i+1, c.Subject)
		}
		switch {
		case now.After(c.NotAfter):
			out = append(out, fmt.Sprintf("%s expired on %s; renew it", what, c.NotAfter.UTC().Format(time.RFC3339)))
		case now.Before(c.NotBefore):
			out = append(out, fmt.Sprintf("%s is not valid before %s", what, c.NotBefore.UTC().Format(time.RFC3339)))
		}
	}
	return out
}

// NotAfter is when the first of the chain expires.
func (p *Pair) NotAfter() time.Time {
	return slices.MinFunc(p.certificates, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
}

// The rules that warnings are about.
const (
	Unordered     = "unordered-chain"
	NoSubjectName = "no-subject-alt-name"
	RSA           = "rsa-key"
	NotForServers = "not-for-servers"
)

// Warning is what clients may object to at any time.
type Warning struct{ Rule, Text string }

// Warnings says what clients may object to at any time.
func (p *Pair) Warnings() []Warning {
	var out []Warning
	if p.reordered {
		out = append(out, Warning{Unordered, "tls.crt was not in order, leaf first and then each issuer; it is served in order"})
	}
	if len(p.Names) == 0 {
		out = append(out, Warning{NoSubjectName, "the certificate has no subjectAltName; many clients ignore the common name and refuse it"})
	}
	if bits := rsaBits(p.certificates[0]); bits > 0 {
		out = append(out, Warning{RSA, fmt.Sprintf("the key is RSA %d; ECDSA P-256 makes handshakes far cheaper", bits)})
	}
	if !p.allows(x509.ExtKeyUsageServerAuth) {
		out = append(out, Warning{NotForServers, "the certificate is not for servers (extended key usage without serverAuth), so clients refuse it; request one that is"})
	}
	return out
}

// ForClients tells whether servers may take the leaf from a client.
func (p *Pair) ForClients() bool { return p.allows(x509.ExtKeyUsageClientAuth) }

// allows tells whether the leaf may be used so (RFC 5280, 4.2.1.12).
func (p *Pair) allows(use x509.ExtKeyUsage) bool {
	leaf := p.certificates[0]
	if len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.ContainsFunc(leaf.ExtKeyUsage, func(u x509.ExtKeyUsage) bool { return u == use || u == x509.ExtKeyUsageAny })
}

func names(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

// order puts the leaf first and behind it each issuer, then what is left.
func order(in []*x509.Certificate, leaf int) []*x509.Certificate {
	out := []*x509.Certificate{in[leaf]}
	rest := slices.Delete(slices.Clone(in), leaf, leaf+1)
	rest = slices.DeleteFunc(rest, func(c *x509.Certificate) bool { return c.Equal(out[0]) })
	for {
		last := out[len(out)-1]
		i := slices.IndexFunc(rest, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil
		})
		if i < 0 {
			return append(out, rest...)
		}
		next := rest[i]
		out = append(out, next)
		rest = slices.DeleteFunc(rest, func(c *x509.Certificate) bool { return c.Equal(next) })
	}
}

func rsaBits(c *x509.Certificate) int {
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok {
		return k.N.BitLen()
	}
	return 0
}

func readKey(in []byte) (crypto.Signer, error) {
	blocks, err := decode("tls.key", in)
	if err != nil {
		return nil, err
	}
	certificates := 0
	for _, b := range blocks {
		switch {
		case b.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, errors.New("tls.key is encrypted; decrypt it: openssl pkey -in tls.key -out plain.key")
		case b.Type == "OPENSSH PRIVATE KEY":
			return nil, errors.New("tls.key is an OpenSSH key; convert it: ssh-keygen -p -m PKCS8 -f tls.key")
		case strings.HasSuffix(b.Type, "PRIVATE KEY"):
			if len(b.Bytes) > maxKeyBytes {
				return nil, fmt.Errorf("tls.key has %d bytes, more than an RSA key with %d bits; use ECDSA P-256", len(b.Bytes), maxRSA)
			}
			k, err := parseKey(b.Bytes)
			if err != nil {
				return nil, err
			}
			return k, checkKey(k)
		case b.Type == "CERTIFICATE":
			certificates++
		}
	}
	if certificates > 0 {
		return nil, errors.New("tls.key holds a certificate and no private key; are tls.crt and tls.key swapped?")
	}
	return nil, errors.New("tls.key has no private key; it must have a block -----BEGIN PRIVATE KEY-----")
}

// parseKey tries the three encodings; tools disagree on the label for them.
// What the parsers say is dropped, it may quote the key.
func parseKey(der []byte) (crypto.Signer, error) {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if s, ok := k.(crypto.Signer); ok {
			return s, nil
		}
		return nil, errors.New("tls.key cannot sign; use an ECDSA, RSA or Ed25519 key")
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	return nil, errors.New("tls.key is damaged, or of a kind that TLS does not use; make a new one: openssl ecparam -genkey -name prime256v1 -noout")
}

func checkKey(k crypto.Signer) error {
	switch k := k.(type) {
	case *rsa.PrivateKey:
		switch bits := k.N.BitLen(); {
		case bits < minRSA:
			return fmt.Errorf("tls.key is RSA with %d bits, which clients refuse; use ECDSA P-256, or RSA with %d", bits, minRSA)
		case bits > maxRSA:
			return fmt.Errorf("tls.key is RSA with %d bits; use ECDSA P-256, or RSA with %d bits at most", bits, maxRSA)
		}
		return nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P224() {
			return errors.New("tls.key is ECDSA P-224, which TLS does not use; use P-256")
		}
		return nil
	case ed25519.PrivateKey:
		return nil
	}
	return fmt.Errorf("tls.key is a %T; use an ECDSA, RSA or Ed25519 key", k)
}

func samePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
