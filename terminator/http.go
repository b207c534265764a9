// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/sluice-gateway/sluice/terminator/httproute"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

// maxHeader bounds the header of a request, in bytes.
const maxHeader = 64 << 10

type connectionKey struct{}

func (s *Server) initHTTP() {
	s.httpNew = &chanListener{conns: make(chan net.Conn), done: make(chan struct{})}
	s.http = httproute.New(httproute.Options{
		Listener: s.httpListener,
		Dial:     s.dialHTTP,
		Protocol: s.upstreamProtocol,
		Abort: func(r *http.Request) {
			if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
				c.abort(relay.BackendReset)
			}
		},
		Sending: func(r *http.Request) int64 {
			if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
				return relay.Sending(c.client)
			}
			return 0
		},
		Sent: func(r *http.Request, route, backend, endpoint string) {
			if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
				c.set(func(k *known) { k.route, k.backend, k.endpoint = route, backend, endpoint })
			}
		},
		Done: func(r *http.Request, served httproute.Served) {
			if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
				c.logRequest(r, &served)
			}
			if served.FirstByte > 0 {
				s.Metrics.firstByte.WithLabelValues("http").Observe(served.FirstByte.Seconds())
			}
		},
		Log: s.Log,
	})
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // with prior knowledge (RFC 9113, 3.3)
	s.httpd = &http.Server{
		Handler:           s.http,
		Protocols:         protocols,
		ReadHeaderTimeout: s.HandshakeTimeout,
		IdleTimeout:       s.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if t, ok := c.(*tls.Conn); ok {
				c = t.NetConn()
			}
			switch c := c.(type) {
			case *clientLeg:
				return c.c.httpContext(ctx)
			case *httpConn:
				return c.c.httpContext(ctx)
			}
			return ctx
		},
	}
}

// httpContext is the context of a connection's requests. It ends with an
// abort: package http notices a closed client only where it reads, and a
// backend that neither reads nor answers would keep it from that for good.
func (c *connection) httpContext(parent context.Context) context.Context {
	ctx, cancel := context.WithCancel(context.WithValue(parent, connectionKey{}, c))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = cancel
	if c.forced != "" || c.finished {
		cancel()
	}
	return ctx
}

// serveHTTP hands a connection of an HTTP listener to package http. A request
// chooses among the listeners of the port, by its host; the connection counts
// for the first of them in order of names.
func (s *Server) serveHTTP(c *connection) {
	if !c.enter(c.port.first) {
		c.reset(endLimit)
		return
	}
	s.handOver(c, &httpConn{c.client, c})
}

// serveHTTPS hands an established TLS connection to package http.
func (s *Server) serveHTTPS(c *connection, leg *clientLeg, conn *tls.Conn) {
	leg.http = true
	s.handOver(c, conn)
}

func (s *Server) handOver(c *connection, conn net.Conn) {
	c.set(func(*known) { c.http = true })
	select {
	case s.httpNew.conns <- conn:
	case <-s.httpNew.done:
		c.reset(endDrain)
	}
}

// httpListener finds the listener of a request in the present snapshot.
func (s *Server) httpListener(r *http.Request, host string) httproute.Listener {
	c, ok := r.Context().Value(connectionKey{}).(*connection)
	if !ok {
		return httproute.Listener{}
	}
	c.requests.Add(1)
	st := s.snapshot.Load()
	var l *listener
	if p := st.at(addrPort(c.client.LocalAddr())); p != nil && p.tls == (r.TLS != nil) {
		l, _ = p.byName.find(host)
	}
	if r.TLS == nil {
		if l == nil {
			return httproute.Listener{}
		}
		return httproute.Listener{Name: l.config.Name, Hosts: l.config.HTTP, Port: l.config.Port, Certificate: l.config.BackendCertificate, IdleTimeout: l.idle}
	}
	mine := st.listeners[c.listener.config.Name]
	if mine == nil {
		return httproute.Listener{}
	}
	return httproute.Listener{
		Name: mine.config.Name, Hosts: mine.config.HTTP, Port: mine.config.Port,
		Misdirected: l != nil && l.config.Name != mine.config.Name, Unverified: !c.passes(mine, r.TLS), Certificate: mine.config.BackendCertificate,
		IdleTimeout: mine.idle,
	}
}

// httpConn is a connection without TLS in the hands of package http.
type httpConn struct {
	net.Conn
	c *connection
}

func (h *httpConn) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	return h.c.httpMoved(&h.c.progress.Up, n, err)
}

func (h *httpConn) Write(p []byte) (int, error) {
	n, err := h.Conn.Write(p)
	return h.c.httpMoved(&h.c.progress.Down, n, err)
}

func (h *httpConn) CloseWrite() error { return h.c.client.CloseWrite() }

func (h *httpConn) Close() error {
	return h.c.closeHTTP(h.Conn)
}

// httpMoved counts bytes and remembers that the client reset.
func (c *connection) httpMoved(counter *atomic.Int64, n int, err error) (int, error) {
	counter.Add(int64(n))
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		c.httpReset.Store(true)
	}
	return n, err
}

// closeHTTP closes a connection for package http, which has ended it in order
// unless it was aborted before: a response may end with its connection, so a
// killed process must reset it.
func (c *connection) closeHTTP(conn net.Conn) error {
	c.mu.Lock()
	if c.forced == "" {
		_ = c.client.SetLinger(-1)
	}
	c.mu.Unlock()
	err := conn.Close()
	end := relay.Done
	if c.httpReset.Load() {
		end = relay.ClientReset
	}
	c.finish(end, nil)
	return err
}

// The three methods below are httpConn's for TLS.

func (l *clientLeg) Read(p []byte) (int, error) {
	n, err := l.Wire.Read(p)
	if l.http {
		return l.c.httpMoved(&l.c.progress.Up, n, err)
	}
	return n, err
}

func (l *clientLeg) Write(p []byte) (int, error) {
	n, err := l.Wire.Write(p)
	if l.http {
		return l.c.httpMoved(&l.c.progress.Down, n, err)
	}
	return n, err
}

func (l *clientLeg) Close() error {
	if l.http {
		return l.c.closeHTTP(l.Wire)
	}
	return l.Wire.Close()
}

// chanListener gives package http the connections that were accepted for it.
type chanListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *chanListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (*chanListener) Addr() net.Addr { return &net.TCPAddr{} }
