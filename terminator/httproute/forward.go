// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-gateway/sluice/agent/config"
)

// flushInterval bounds how long bytes of a response of known length wait for
// more. Responses of unknown length are passed on at once.
const flushInterval = 50 * time.Millisecond

// errTimeout is the end of an exchange that took longer than its rule allows.
var errTimeout = errors.New("timeout of the route")

// exchange is one request on its way to a backend.
type exchange struct {
	h      *Handler
	rule   *config.HTTPRule
	ref    *config.HTTPBackendRef
	target url.URL // of the client, normalized
	// certificate is Listener.Certificate.
	certificate string
	idleTimeout time.Duration // of the listener, or 0

	in    *http.Request // as it came
	rec   *recorder
	out   *response
	body  *clientBody
	pool  *pool
	timer *time.Timer
	idle  *time.Timer // or nil

	tunnel *tunnel // after a 101

	mu       sync.Mutex
	done     bool
	timedOut bool
	broke    atomic.Bool // it was not the client that ended it
	stalled  atomic.Bool // the client did not go on with the body
}

// forward sends a request to its backend and the response to the client.
func (x *exchange) forward() {
	h, w, r := x.h, x.rec, x.in
	w.Backend = x.ref.Backend
	if x.pool = h.acquire(Upstream{x.ref.Backend, x.certificate}); x.pool == nil {
		http.Error(w, "shutting down", http.StatusServiceUnavailable)
		return
	}
	defer h.release(x.pool)
	trim := func() { trimTrailer(r.Trailer, x.rule.RequestHeaders, x.ref.RequestHeaders) }
	trim() // of what is announced
	x.body = &clientBody{ReadCloser: r.Body, read: &w.up, ended: trim}
	x.body.complete.Store(r.ContentLength == 0)
	x.out = &response{ResponseWriter: w, body: x.body, http1: r.ProtoMajor == 1, http10: !r.ProtoAtLeast(1, 1)}

	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	if d := timeout(x.rule); d > 0 {
		x.timer = time.AfterFunc(d, func() { x.expire(); cancel(errTimeout) })
		defer x.timer.Stop()
	}
	if x.idleTimeout > 0 && !x.out.http1 {
		x.watchIdle(x.idleTimeout, cancel)
		defer func() { x.idle.Stop() }()
	}
	if x.out.http1 {
		defer x.abortBroken()
		// net/http would read the rest of the request before it sends the
		// response, and so take it from the backend.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}

	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if q, ok := info.Conn.(*quiet); ok && info.Reused {
			q.await()
		}
		w.Endpoint = info.Conn.RemoteAddr().String()
		if h.Sent != nil {
			h.Sent(r, w.Route, w.Backend, w.Endpoint)
		}
	}})
	out := r.WithContext(ctx)
	out.Body = x.body
	if up := r.Header.Get("Upgrade"); up != "" && (!strings.EqualFold(up, "websocket") || !r.ProtoAtLeast(1, 1)) {
		out.Header = r.Header.Clone()
		out.Header.Del("Upgrade")
	}
	proxy := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		ModifyResponse: x.modifyResponse,
		ErrorHandler:   x.fail,
		Transport:      x.pool.transport,
		FlushInterval:  flushInterval,
		BufferPool:     buffers{},
		ErrorLog:       h.debug,
	}
	defer x.finish()
	defer func() {
		if x.tunnel != nil {
			_ = x.tunnel.Close() // ReverseProxy leaves it open when it refuses an upgrade
		}
	}()
	proxy.ServeHTTP(x.out, out)
}

// timeout is the time that an exchange may take: with one try per request, the
// shorter of the two limits.
func timeout(rule *config.HTTPRule) time.Duration {
	if rule.RequestTimeout > 0 && rule.BackendTimeout > 0 {
		return min(rule.RequestTimeout, rule.BackendTimeout)
	}
	return max(rule.RequestTimeout, rule.BackendTimeout)
}

// rewrite makes the request for the backend.
func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	out := p.Out
	out.URL.Path, out.URL.RawPath = x.target.Path, x.target.RawPath
	out.URL.RawQuery = x.target.RawQuery
	out.URL.Scheme, out.URL.User = x.pool.scheme(), nil
	// The connection comes from the pool; this name goes to the backend only
	// if the client gave none.
	out.URL.Host = x.ref.Backend[strings.LastIndexByte(x.ref.Backend, '/')+1:]
	// Trailers arrive in the client's map, after the body.
	out.Trailer = p.In.Trailer

	client := x.in.RemoteAddr
	if ap, err := netip.ParseAddrPort(client); err == nil {
		client = ap.Addr().Unmap().WithZone("").String()
	}
	via := slices.Concat(x.in.Header["X-Forwarded-For"], []string{client})
	out.Header.Set("X-Forwarded-For", strings.Join(via, ", "))
	out.Header.Set("X-Forwarded-Proto", scheme(x.in))
	out.Header.Set("X-Envoy-External-Address", client)
	x.rec.RequestID = uuid.NewString()
	out.Header.Set("X-Request-Id", x.rec.RequestID)
	out.Header.Del("X-Envoy-Internal")
	out.Header.Del("X-Forwarded-Client-Cert") // only whoever verified it may say who the client is

	if rw := x.rule.URLRewrite; rw != nil {
		if rw.Hostname != "" {
			out.Host = rw.Hostname
		}
		changePath(out.URL, &x.rule.Match, rw.Path)
	}
	// Over HTTP/2 it may come next to :authority, which the rules went by.
	out.Header.Del("Host")
	change(out.Header, x.rule.RequestHeaders)
	change(out.Header, x.ref.RequestHeaders)
	if host := out.Header.Get("Host"); host != "" {
		out.Host = host
	}
}

func (x *exchange) modifyResponse(res *http.Response) error {
	if res.StatusCode < 100 || res.StatusCode > 999 {
		return fmt.Errorf("status %d is none of HTTP", res.StatusCode) // net/http would panic
	}
	x.rec.FirstByte = time.Since(x.rec.Start)
	if res.StatusCode == http.StatusSwitchingProtocols {
		// From here on it is a tunnel, and idle timeouts bound it.
		if x.timer != nil && !x.timer.Stop() {
			return errTimeout
		}
		if body, ok := res.Body.(io.ReadWriteCloser); ok {
			x.tunnel = &tunnel{body, x.abort}
			res.Body = x.tunnel
		}
	}
	if len(res.Trailer) > 0 && x.out.http1 {
		// HTTP/1 has trailers after chunks only, HTTP/2 also after a length.
		res.Header.Del("Content-Length")
	}
	change(res.Header, x.ref.ResponseHeaders)
	change(res.Header, x.rule.ResponseHeaders)
	return nil
}

// fail answers a request that got no response from its backend.
func (x *exchange) fail(w http.ResponseWriter, _ *http.Request, err error) {
	var code int
	var netErr net.Error
	switch {
	case x.expired() && x.stalled.Load():
		http.Error(w, "the body of the request does not go on", http.StatusRequestTimeout)
		return
	case x.expired():
		code = http.StatusGatewayTimeout
	case x.in.Context().Err() != nil:
		panic(http.ErrAbortHandler) // the client is gone
	case x.body.failed.Load():
		http.Error(w, "the body of the request broke off", http.StatusBadRequest)
		return
	case errors.Is(err, ErrNoEndpoint):
		code = http.StatusServiceUnavailable
	case errors.As(err, &netErr) && netErr.Timeout():
		code = http.StatusGatewayTimeout
	default:
		code = http.StatusBadGateway
	}
	if x.h.mayWarn(x.pool) {
		x.h.Log.Warn("backend gave no response", "route", x.rule.Route, "backend", x.ref.Backend, "status", code, "error", err)
	}
	http.Error(w, http.StatusText(code), code)
}

// abortBroken is deferred: it sees a response that broke off as the panic by
// which ReverseProxy tells net/http.
func (x *exchange) abortBroken() {
	if v := recover(); v != nil {
		x.abort()
		panic(v)
	}
}

func (x *exchange) abort() {
	if !x.rec.left(x.in) {
		x.broke.Store(true)
	}
	if x.h.Abort != nil {
		x.h.Abort(x.in)
	}
}

// expire ends an exchange that took too long, also where it waits for a client
// that neither sends nor reads. What was sent of a response by then is all
// that the client gets.
func (x *exchange) expire() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.done {
		return // the connection may serve another request by now
	}
	x.timedOut = true
	control := http.NewResponseController(x.out.ResponseWriter)
	past := time.Unix(1, 0)
	if x.out.sent.Load() {
		if x.out.http1 {
			x.abort() // net/http would close by FIN when writing fails
		}
		_ = control.SetWriteDeadline(past)
	}
	if !x.body.complete.Load() {
		_ = control.SetReadDeadline(past)
	}
}

func (x *exchange) expired() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.timedOut
}

// finish ends the time in which expire may act.
func (x *exchange) finish() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done = true
}

// clientBody is the body of a request; it remembers how reading it ended.
type clientBody struct {
	io.ReadCloser
	read             *atomic.Int64 // bytes
	ended            func()        // called before its end is told
	complete, failed atomic.Bool
}

func (b *clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	if err == io.EOF {
		b.ended()
		b.complete.Store(true)
	} else if err != nil {
		b.failed.Store(true)
	}
	return n, err
}

// buffers is where ReverseProxy takes its copy buffers from.
type buffers struct{}

var bufferPool = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[32 << 10]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[32 << 10]byte)(b)) }
