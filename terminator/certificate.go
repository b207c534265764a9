// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-gateway/sluice/agent/config"
)

// certificate is a parsed config.Certificate. Chain and key are of one moment:
// they are parsed together and never changed.
type certificate struct {
	source config.Certificate
	tls    tls.Certificate
	names  []string // lower case, "*.name" for one label before name
	ecdsa  bool
	id     [sha256.Size]byte // of the leaf
}

func parseCertificate(c config.Certificate) (*certificate, error) {
	pair, err := tls.X509KeyPair(c.Chain, []byte(c.Key))
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", c.Name, err)
	}
	out := &certificate{source: c, tls: pair, names: pair.Leaf.DNSNames, id: sha256.Sum256(pair.Certificate[0])}
	if len(out.names) == 0 && pair.Leaf.Subject.CommonName != "" {
		out.names = []string{pair.Leaf.Subject.CommonName}
	}
	out.names = slices.Clone(out.names)
	for i, n := range out.names {
		out.names[i] = strings.ToLower(n)
	}
	_, out.ecdsa = pair.PrivateKey.(*ecdsa.PrivateKey)
	return out, nil
}

// same tells whether a parsed certificate is still what the snapshot says.
func (c *certificate) same(o config.Certificate) bool {
	return bytes.Equal(c.source.Chain, o.Chain) && bytes.Equal(c.source.Key, o.Key)
}

// chooser picks the certificate of a handshake among those of one listener.
type chooser struct {
	exact map[string][]*certificate
	wild  map[string][]*certificate // ".example.com": one label before it
	rest  []*certificate            // one of each kind of key, for other names
}

var errNoCertificate = errors.New("no usable certificate")

// newChooser indexes certificates, which are in the order of the listener.
func newChooser(all []*certificate) *chooser {
	c := &chooser{exact: map[string][]*certificate{}, wild: map[string][]*certificate{}}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b *certificate) int {
		switch {
		case a.ecdsa == b.ecdsa:
			return 0
		case a.ecdsa:
			return -1
		}
		return 1
	})
	kinds := map[string]bool{}
	for _, cert := range all {
		for _, n := range cert.names {
			if suffix, ok := strings.CutPrefix(n, "*"); ok {
				c.wild[suffix] = append(c.wild[suffix], cert)
			} else {
				c.exact[n] = append(c.exact[n], cert)
			}
		}
		if kind := fmt.Sprintf("%T", cert.tls.PrivateKey); !kinds[kind] {
			kinds[kind] = true
			c.rest = append(c.rest, cert)
		}
	}
	return c
}

// choose returns the certificate whose name fits best (exact, then wildcard,
// then any) among those that the client can verify, ECDSA before RSA. When it
// can verify none, the best name is returned and the handshake fails with the
// right alert.
func (c *chooser) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := normalName(hello.ServerName)
	_, suffix, _ := strings.Cut(name, ".")
	// Names are matched here: a certificate without SAN must do as well.
	offer := *hello
	offer.ServerName = ""
	var first *certificate
	for _, group := range [][]*certificate{c.exact[name], c.wild["."+suffix], c.rest} {
		for _, cert := range group {
			if first == nil {
				first = cert
			}
			if offer.SupportsCertificate(&cert.tls) == nil {
				return &cert.tls, nil
			}
		}
	}
	if first == nil {
		return nil, errNoCertificate
	}
	return &first.tls, nil
}
