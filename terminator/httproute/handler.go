// SPDX-License-Identifier: Apache-2.0

// Package httproute serves the HTTPRoute rules of a listener.
//
// A [Handler] matches each request against the rules of the snapshot of that
// moment, changes it as the rule says and forwards it with
// [httputil.ReverseProxy] over connections of its own, pooled by backend. One
// handler serves every listener of a node.
//
// Towards the backend it speaks of the client as Envoy does at an edge:
// X-Forwarded-For is appended to, X-Forwarded-Proto and
// X-Envoy-External-Address are set, X-Request-Id is always a new UUIDv4 (a
// client's own is not trusted), and Forwarded, X-Forwarded-Host,
// X-Forwarded-Client-Cert and X-Envoy-Internal of the client are dropped. Host
// is passed on.
//
// What it does not do: retries, mirroring, CORS, tunnels by CONNECT, and
// upgrades to anything but WebSocket (an upgrade to h2c would carry requests
// past the rules).
package httproute

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// ErrNoEndpoint is what Options.Dial returns, or wraps, when the backend has
// no usable endpoint. The client gets 503.
var ErrNoEndpoint = errors.New("no usable endpoint")

// Listener is what a snapshot says of the listener that took a request.
type Listener struct {
	// Name is for Served.
	Name string
	// Hosts are the rules, most specific host first (config.Listener.HTTP).
	// The first host that matches is taken, alone.
	Hosts []config.HTTPHost
	// Port is the port that clients connect to. Redirects name it.
	Port uint16
	// Misdirected says that the request's host belongs to another listener on
	// the same port than the one that the connection's SNI name chose. The
	// client gets 421 and is expected to come again on a new connection
	// (RFC 9110 section 15.5.20).
	Misdirected bool
	// Unverified says that the listener asks clients for a certificate by now, or by
	// other CAs, and that the connection's client has shown none that would do. It
	// gets 421, too, and the connection ends.
	Unverified bool
	// Certificate is what backends are shown (config.Listener.BackendCertificate).
	Certificate string
	// IdleTimeout ends a request of HTTP/2 of which nothing moves for so long; 0 for
	// none. Those of HTTP/1 have a connection for themselves, and end with that.
	IdleTimeout time.Duration
}

// Upstream is a backend as the requests of some listeners use it.
type Upstream struct {
	// Backend is config.Backend.Name.
	Backend string
	// Certificate is Listener.Certificate.
	Certificate string
}

// Protocol is how an upstream is spoken to. Its connections serve requests
// while that stays the same.
type Protocol struct {
	// Name is config.Backend.Protocol.
	Name string
	// TLS identifies the settings of TLS, "" where none is spoken. Dial does the
	// handshake; for h2c it returns a *tls.Conn that has agreed on h2.
	TLS string
}

// Options are the seams of a Handler. Listener, Dial, Protocol and Log are
// required.
type Options struct {
	// Listener returns what the current snapshot says of the listener that r
	// came in by. host is the name in r.Host as config.MatchHostname wants it:
	// lower case, without port and trailing dot, "" when there is none. It is
	// called once per request; an empty Listener answers 404.
	Listener func(r *http.Request, host string) Listener

	// Dial connects to an endpoint of an upstream. It
	// bounds its own time: ctx may outlive the request it was started for. An
	// error that wraps ErrNoEndpoint answers 503, a timeout 504, others 502.
	//
	// The connection is closed by the handler. Close without CloseWrite before
	// it should reset: that is how a backend learns that a tunnel broke.
	Dial func(ctx context.Context, to Upstream) (net.Conn, error)

	// Protocol says how an upstream is spoken to at the moment.
	Protocol func(to Upstream) Protocol

	// Abort makes the end of r's client connection an error that cannot be
	// taken for the end of the response: a reset, without close_notify. It is
	// called, from any goroutine, when a response or tunnel breaks off on
	// HTTP/1, before the connection is closed. Optional; without it a
	// response to HTTP/1.0 that ends with the connection looks complete.
	Abort func(r *http.Request)

	// Sending, when set, returns a number that changes for as long as the kernel holds
	// bytes for r's client and the client takes them: its requests have not stopped then.
	Sending func(r *http.Request) int64

	// Sent, when set, is told of each request that has a connection to an
	// endpoint of its backend.
	Sent func(r *http.Request, route, backend, endpoint string)

	// Done, when set, is told of each request when it is over.
	Done func(r *http.Request, s Served)

	Log *slog.Logger
}

// Handler serves requests by the rules of the current snapshot. Make one with
// New; it is safe for concurrent use.
type Handler struct {
	Options
	debug *log.Logger // of ReverseProxy

	mu     sync.Mutex
	pools  map[Upstream]*pool
	closed bool
}

// New returns a handler. Close it when no request is in flight any more.
func New(o Options) *Handler {
	return &Handler{Options: o, debug: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), pools: map[Upstream]*pool{}}
}

// Forget stops the use of a backend's present connections: idle ones are
// closed, the others when the requests on them are done. Call it when an
// endpoint left the backend, when its protocol changed or when it is gone.
// Requests that follow connect anew.
func (h *Handler) Forget(backend string) {
	h.Retain(func(b string) bool { return b != backend })
}

// Retain forgets every backend for which keep returns false. keep must not
// call the handler.
func (h *Handler) Retain(keep func(backend string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for to, p := range h.pools {
		if !keep(to.Backend) {
			h.retire(to, p)
		}
	}
}

// Close forgets every backend and refuses requests (503) from then on. It does
// not wait for those in flight.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.Retain(func(string) bool { return false })
}

// ServeHTTP answers or forwards one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := hostname(r.Host)
	l := h.Listener(r, host)
	rec := &recorder{ResponseWriter: w, Served: Served{Start: time.Now(), Listener: l.Name}}
	x := &exchange{h: h, in: r, rec: rec}
	defer rec.end(h, r, x)
	w = rec
	if l.Misdirected {
		http.Error(w, "the host of this request belongs to another listener", http.StatusMisdirectedRequest)
		return
	}
	if l.Unverified {
		w.Header().Set("Connection", "close") // with HTTP/2 a GOAWAY
		http.Error(w, "the listener asks for a client certificate that this connection began without", http.StatusMisdirectedRequest)
		return
	}
	if r.Method == http.MethodConnect {
		http.Error(w, "CONNECT is not served", http.StatusNotImplemented)
		return
	}
	rule, target, ok := Match(l.Hosts, r)
	if !ok {
		http.Error(w, "the target of the request has no clear meaning", http.StatusBadRequest)
		return
	}
	if rule != nil {
		rec.Route = rule.Route
	}
	switch {
	case rule == nil:
		http.Error(w, "no route matches", http.StatusNotFound)
	case rule.Invalid:
		http.Error(w, "the route is invalid, see its status", http.StatusInternalServerError)
	case rule.Redirect != nil:
		redirect(w, r, rule, target, host, l.Port)
	default:
		ref := choose(rule.Backends)
		if ref == nil || ref.Backend == "" {
			http.Error(w, "the route has no backend for this request, see its status", http.StatusInternalServerError)
			return
		}
		x.rule, x.ref, x.target, x.certificate, x.idleTimeout = rule, ref, target, l.Certificate, l.IdleTimeout
		x.forward()
	}
}
