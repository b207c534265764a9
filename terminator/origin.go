// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/terminator/balance"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

// origin is how the gateway speaks TLS with a backend, as its client.
type origin struct {
	config config.BackendTLS
	roots  *x509.CertPool
	id     string // of all of it
	err    error  // why nothing may be sent
}

var errNoSystemRoots = errors.New("this node has no CA certificates of its own; install its package ca-certificates, or name some in caCertificateRefs")

// compileOrigins reads how the backends of a snapshot are spoken to.
func (st *state) compileOrigins(backends []config.Backend) {
	st.origins = map[string]*origin{}
	for _, b := range backends {
		if b.TLS == nil {
			continue
		}
		o := &origin{config: *b.TLS}
		h := sha256.New()
		_ = json.NewEncoder(h).Encode(b.TLS) // plain data
		switch {
		case b.TLS.Refused != "":
			o.err = errors.New(b.TLS.Refused)
		case b.TLS.System:
			if o.roots, o.err = x509.SystemCertPool(); o.err == nil && o.roots.Equal(x509.NewCertPool()) {
				o.err = errNoSystemRoots
			}
		default:
			o.roots, o.err = st.pool(b.TLS.Authorities)
			st.identify(h, b.TLS.Authorities)
		}
		o.id = hex.EncodeToString(h.Sum(nil))
		st.origins[b.Name] = o
	}
}

// tls is the configuration of one connection. protocol is offered by ALPN
// unless it is empty, cert is shown to a backend that asks for one.
func (o *origin) tls(cert *certificate, protocol string) *tls.Config {
	c := &tls.Config{
		ServerName:                  o.config.Hostname,
		RootCAs:                     o.roots,
		MinVersion:                  tls.VersionTLS12,
		DynamicRecordSizingDisabled: true,
	}
	if protocol != "" {
		c.NextProtos = []string{protocol}
	}
	if cert != nil {
		// Whether it will do is the backend's to say: what it lists as acceptable
		// is often not all that it accepts.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert.tls, nil }
	}
	if len(o.config.SubjectAltNames) > 0 {
		c.InsecureSkipVerify = true // of ServerName; verify does all that is left
		c.VerifyConnection = o.verify
	}
	return c
}

// verify checks a certificate that is to have one of several names.
func (o *origin) verify(cs tls.ConnectionState) error {
	opts := x509.VerifyOptions{Roots: o.roots, Intermediates: x509.NewCertPool()}
	for _, c := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(c)
	}
	leaf := cs.PeerCertificates[0]
	_, err := leaf.Verify(opts)
	if err == nil && !slices.ContainsFunc(o.config.SubjectAltNames, func(n config.SubjectAltName) bool { return hasName(leaf, n) }) {
		err = fmt.Errorf("the certificate is for %s, and none of that is in subjectAltNames of the BackendTLSPolicy", namesOf(leaf))
	}
	if err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: cs.PeerCertificates, Err: err}
	}
	return nil
}

// hasName tells whether a certificate has a subjectAltName. A wildcard of the
// policy takes every name that falls under it, one of the certificate one label.
func hasName(c *x509.Certificate, want config.SubjectAltName) bool {
	switch {
	case want.URI != "":
		return slices.ContainsFunc(c.URIs, func(u *url.URL) bool { return u.String() == want.URI })
	case strings.HasPrefix(want.Hostname, "*."):
		return slices.ContainsFunc(c.DNSNames, func(n string) bool {
			return strings.EqualFold(n, want.Hostname) || config.MatchHostname(want.Hostname, normalName(n))
		})
	}
	return c.VerifyHostname(want.Hostname) == nil
}

func namesOf(c *x509.Certificate) string {
	all := slices.Clone(c.DNSNames)
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	if len(all) == 0 {
		return "no name"
	}
	return printable(strings.Join(all, ", "))
}

// backendTLSError is a TLS handshake with an endpoint that failed. When it is
// final, none was tried and no other endpoint will do better.
type backendTLSError struct {
	address string
	err     error
	final   bool
}

func (e *backendTLSError) Error() string { return fmt.Sprintf("TLS with %s: %s", e.address, e.err) }
func (e *backendTLSError) Unwrap() error { return e.err }

// over makes what dials TCP dial TLS: its connections are of type *tlsLeg, and
// the handshake is done.
func (o *origin) over(tcp dial, cert *certificate, protocol string) dial {
	return func(ctx context.Context, from *net.TCPAddr, network, address string) (net.Conn, error) {
		if o.err != nil {
			return nil, &backendTLSError{address, o.err, true}
		}
		conn, err := tcp(ctx, from, network, address)
		if err != nil {
			return nil, err
		}
		w := &backendWire{Wire: relay.NewWire(conn.(*net.TCPConn))}
		w.Decide()
		leg := &tlsLeg{TCPConn: w.TCPConn, wire: w, conn: tls.Client(w, o.tls(cert, protocol))}
		if err := leg.conn.HandshakeContext(ctx); err != nil {
			relay.Abort(leg)
			return nil, &backendTLSError{address, err, false}
		}
		return leg, nil
	}
}

// tlsLeg is a backend leg that speaks TLS. As a relay.Leg it is the TCP
// connection below.
type tlsLeg struct {
	*net.TCPConn
	wire *backendWire
	conn *tls.Conn
}

// Path says how bytes travel.
func (*tlsLeg) Path() (path, reason string) { return "relay", "backend_tls" }

func (l *tlsLeg) side() relay.Side { return relay.Side{Leg: l, TLS: l.conn, Wire: l.wire.Wire} }

// backendWire is the wire to a backend.
type backendWire struct {
	*relay.Wire
	closed func() // called by the first Close, or nil
}

func (w *backendWire) Close() error {
	err := w.Wire.Close()
	if w.closed != nil && !errors.Is(err, net.ErrClosed) {
		w.closed()
	}
	return err
}

// secure returns how to dial a backend for a connection whose bytes are in the
// clear here: by TLS where the backend wants that, else as otherwise says.
// protocol is what the client agreed upon by ALPN.
func (c *connection) secure(b *balance.Backend, otherwise dial, protocol string) dial {
	if b == nil {
		return otherwise
	}
	if o := c.listener.origins[b.Name]; o != nil {
		return o.over(plain, c.listener.shown, protocol)
	}
	return otherwise
}

// backendSide is a backend leg for the relay.
func backendSide(l relay.Leg) relay.Side {
	if t, ok := l.(*tlsLeg); ok {
		return t.side()
	}
	return relay.Side{Leg: l}
}
