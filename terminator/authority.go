// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/sluice-gateway/sluice/agent/config"
)

// bundle is a parsed config.Authority.
type bundle struct {
	source       config.Authority
	certificates []*x509.Certificate
	id           [sha256.Size]byte
	err          error
}

func parseBundle(a config.Authority) *bundle {
	out := &bundle{source: a, id: sha256.Sum256(a.Bundle)}
	for block, rest := pem.Decode(a.Bundle); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			out.err = fmt.Errorf("authority %s: %w", a.Name, err)
			return out
		}
		out.certificates = append(out.certificates, c)
	}
	if len(out.certificates) == 0 {
		out.err = fmt.Errorf("authority %s has no certificate", a.Name)
	}
	return out
}

// parseAuthorities reads the authorities that changed.
func (st *state) parseAuthorities(all []config.Authority, old map[string]*bundle) {
	st.authorities = make(map[string]*bundle, len(all))
	for _, a := range all {
		parsed := old[a.Name]
		if parsed == nil || !bytes.Equal(parsed.source.Bundle, a.Bundle) {
			parsed = parseBundle(a)
		}
		st.authorities[a.Name] = parsed
	}
}

// pool returns the certificates of authorities by name.
func (st *state) pool(names []string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, n := range names {
		a := st.authorities[n]
		if a.err != nil {
			return nil, a.err
		}
		for _, c := range a.certificates {
			pool.AddCert(c)
		}
	}
	return pool, nil
}

// identify writes what tells these authorities from others.
func (st *state) identify(to io.Writer, names []string) {
	for _, n := range names {
		_, _ = to.Write(st.authorities[n].id[:])
	}
}

// askClients makes a listener ask for the certificates of clients.
func (l *listener) askClients(c *tls.Config) {
	v := l.config.TLS.ClientValidation
	if v == nil {
		return
	}
	c.ClientCAs, c.ClientAuth = l.clientCAs, tls.RequireAndVerifyClientCert
	if v.Optional {
		c.ClientAuth = tls.RequestClientCert
	}
}

// required is listener.clients.
func (st *state) required(v *config.ClientValidation) string {
	if v.Optional {
		return ""
	}
	h := sha256.New()
	st.identify(h, v.Authorities)
	return string(h.Sum(nil))
}

// passes tells whether the client would pass a listener's check that its handshake,
// under another snapshot, did not have. Requests are of the present snapshot, and a
// connection that carries them may last for as long as its client likes.
func (c *connection) passes(l *listener, cs *tls.ConnectionState) bool {
	if l.clients == "" || l.clients == c.listener.clients {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	shown := c.known.certificate
	if shown == nil || l.clientCAs == nil {
		return false
	}
	if shown.passed != l.clients && l.verify(cs.PeerCertificates) == nil {
		shown.passed = l.clients
	}
	return shown.passed == l.clients
}

// verify checks the certificate of a client.
func (l *listener) verify(chain []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: l.clientCAs, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	return err
}

// clientCertificate describes the certificate of a client, with why it does not
// verify where the client is served all the same. It is nil when there is none.
func (l *listener) clientCertificate(cs *tls.ConnectionState) *shown {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	leaf := cs.PeerCertificates[0]
	s := &shown{name: clientName(leaf)}
	if len(cs.VerifiedChains) > 0 {
		return s
	}
	if err := l.verify(cs.PeerCertificates); err != nil {
		s.problem = printable(err.Error())
	}
	return s
}

// clientName is the first URI, DNS name or e-mail address of a certificate,
// else its subject.
func clientName(c *x509.Certificate) string {
	switch {
	case len(c.URIs) > 0:
		return printable(c.URIs[0].String())
	case len(c.DNSNames) > 0:
		return printable(c.DNSNames[0])
	case len(c.EmailAddresses) > 0:
		return printable(c.EmailAddresses[0])
	}
	return printable(c.Subject.String())
}

// longestText bounds what is kept of a text that a peer made up, in bytes.
const longestText = 512

// printable makes a text of a peer fit for a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > longestText {
		s = strings.ToValidUTF8(s[:longestText], "") + "…"
	}
	return s
}
