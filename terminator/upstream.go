// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"github.com/sluice-gateway/sluice/terminator/httproute"
)

// http2 is the protocol of HTTP backends that speak HTTP/2 (config.Backend).
const http2 = "h2c"

// upstreamProtocol says how the pool of a backend speaks with it.
func (s *Server) upstreamProtocol(to httproute.Upstream) httproute.Protocol {
	st := s.snapshot.Load()
	p := httproute.Protocol{Name: st.protocols[to.Backend]}
	if o := st.origins[to.Backend]; o != nil {
		p.TLS = o.id
		if c := st.certificates[to.Certificate]; c != nil {
			p.TLS += hex.EncodeToString(c.id[:])
		}
	}
	return p
}

// dialHTTP connects the pool of a backend.
func (s *Server) dialHTTP(ctx context.Context, to httproute.Upstream) (net.Conn, error) {
	st := s.snapshot.Load()
	b := st.backends[to.Backend]
	if b == nil {
		return nil, fmt.Errorf("backend %s: %w", to.Backend, httproute.ErrNoEndpoint)
	}
	d := plain
	protocol := "http/1.1"
	if st.protocols[to.Backend] == http2 {
		protocol = "h2"
	}
	if o := st.origins[to.Backend]; o != nil {
		d = o.over(d, st.certificates[to.Certificate], protocol)
	}
	if !s.takeUpstream() {
		return nil, fmt.Errorf("backend %s: %w: this node has no descriptor to spare for another HTTP connection", b.Name, httproute.ErrNoEndpoint)
	}
	conn, e, err := s.dialBackend(ctx, b, d)
	if err != nil {
		s.giveUpstream()
		return nil, err
	}
	closed := func() {
		e.Release()
		s.giveUpstream()
	}
	if k, ok := conn.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok {
		_ = k.SetKeepAliveConfig(s.keepAlive())
	}
	leg, secure := conn.(*tlsLeg)
	if !secure {
		return &pooled{TCPConn: conn.(*net.TCPConn), closed: closed}, nil
	}
	leg.wire.closed = closed
	if protocol != "h2" {
		return &pooledTLS{Conn: leg.conn, wire: leg.wire}, nil
	}
	if got := leg.conn.ConnectionState().NegotiatedProtocol; got != protocol {
		_ = leg.wire.Close()
		return nil, fmt.Errorf("backend %s: %s does not speak HTTP/2: it agreed on %q by ALPN", to.Backend, e.Address, got)
	}
	return leg.conn, nil
}

// takeUpstream takes the room of a connection to an HTTP backend. A client of HTTP/2
// has hundreds of requests on one connection, and each may need one to a backend: a
// few such clients would have all descriptors of the process. Where there is no room
// the idle ones are closed.
func (s *Server) takeUpstream() bool {
	if s.tryUpstream() {
		return true
	}
	s.http.Retain(func(string) bool { return false })
	return s.tryUpstream()
}

func (s *Server) tryUpstream() bool {
	select {
	case s.upstreams <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *Server) giveUpstream() { <-s.upstreams }

// pooled is a backend connection of HTTP. Close resets it unless CloseWrite
// was called: that is how a backend learns that a tunnel broke.
type pooled struct {
	*net.TCPConn
	closed func() // called by the first Close
}

func (p *pooled) CloseWrite() error {
	_ = p.SetLinger(-1)
	return p.TCPConn.CloseWrite()
}

func (p *pooled) Close() error {
	err := p.TCPConn.Close()
	if !errors.Is(err, net.ErrClosed) {
		p.closed()
	}
	return err
}

// pooledTLS is pooled with TLS. Its Close sends no close_notify, which a
// backend would take for an end.
type pooledTLS struct {
	*tls.Conn
	wire *backendWire
}

func (p *pooledTLS) CloseWrite() error {
	_ = p.wire.SetLinger(-1)
	return errors.Join(p.Conn.CloseWrite(), p.wire.CloseWrite())
}

func (p *pooledTLS) Close() error { return p.wire.Close() }
