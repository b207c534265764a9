// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"context"
	"net"
	"net/http"
	"time"
)

// Bounds of the connections that wait for a next request. Most servers keep
// idle connections for longer than idleTimeout, so it is seldom they who
// close one just as a request sets out on it.
const (
	maxIdlePerBackend = 64
	idleTimeout       = 30 * time.Second
)

// continueTimeout is how long a backend may take to answer Expect:
// 100-continue before the body is sent anyway, as curl does it.
const continueTimeout = time.Second

// pingAfter is the silence after which an HTTP/2 backend that has requests is
// asked whether it is still there, and how long it may take to answer.
const pingAfter = 15 * time.Second

// maxResponseHeader bounds what is buffered of a backend's response, in bytes.
const maxResponseHeader = 1 << 20

// pool holds the connections to one upstream, of one protocol. Handler.mu
// guards it.
type pool struct {
	transport *http.Transport
	protocol  Protocol
	users     int // requests in flight
	retired   bool
	warned    time.Time
}

// scheme is that of requests in it.
func (p *pool) scheme() string {
	if p.protocol.TLS != "" {
		return "https"
	}
	return "http"
}

// acquire returns the pool of an upstream for one request, nil after Close.
func (h *Handler) acquire(to Upstream) *pool {
	protocol := h.Protocol(to)
	if protocol.TLS == "" {
		to.Certificate = "" // nobody is shown it
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	p := h.pools[to]
	if p != nil && p.protocol != protocol {
		h.retire(to, p)
		p = nil
	}
	if p == nil {
		p = &pool{transport: h.transport(to, protocol), protocol: protocol}
		h.pools[to] = p
	}
	p.users++
	return p
}

// release ends the use of a pool by one request. The last one closes what a
// retired pool still held.
func (h *Handler) release(p *pool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.users--; p.retired && p.users == 0 {
		p.closeIdle()
	}
}

// closeIdle closes what a retired pool still holds, and looks once more in a moment: the
// stream of an HTTP/2 request ends after the request, and its connection is busy until
// then.
func (p *pool) closeIdle() {
	p.transport.CloseIdleConnections()
	time.AfterFunc(time.Second, p.transport.CloseIdleConnections)
}

// retire takes a pool out of use. h.mu is held.
func (h *Handler) retire(to Upstream, p *pool) {
	delete(h.pools, to)
	p.retired = true
	p.closeIdle()
}

func (h *Handler) transport(to Upstream, protocol Protocol) *http.Transport {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return h.Dial(ctx, to) }
	t := &http.Transport{
		DialContext:            dial,
		DialTLSContext:         dial,
		DisableCompression:     true, // pass bodies on as they are
		MaxIdleConns:           maxIdlePerBackend,
		MaxIdleConnsPerHost:    maxIdlePerBackend,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
	}
	switch {
	case protocol.Name != "h2c":
		t.Protocols.SetHTTP1(true)
		t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return newQuiet(c), nil
		}
		t.DialTLSContext = t.DialContext
	case protocol.TLS != "":
		t.Protocols.SetHTTP2(true)
	default:
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}

// mayWarn tells whether it is time for another warning about a backend: one a
// second is enough.
func (h *Handler) mayWarn(p *pool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(p.warned) < time.Second {
		return false
	}
	p.warned = time.Now()
	return true
}
