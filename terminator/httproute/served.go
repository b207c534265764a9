// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Served is what became of a request.
type Served struct {
	Start time.Time
	// FirstByte is the time from Start to the header of the backend's response, 0
	// when there was none.
	FirstByte time.Duration
	// Listener is Listener.Name of the listener that took it.
	Listener string
	// Route, Backend and Endpoint are where it went, as far as it got.
	Route, Backend, Endpoint string
	// RequestID is the X-Request-Id that its backend got.
	RequestID string
	// Status is that of the response, 0 when there was none.
	Status int
	// Up and Down are the bytes of its body and of that of the response; after a
	// 101 those of the tunnel.
	Up, Down int64
	Result   Result
}

// Result says how a request ended.
type Result string

// Results of requests.
const (
	// Done means that the response was complete, whoever gave it.
	Done Result = "done"
	// ClientGone means that the client did not wait for the end of the response.
	ClientGone Result = "client_gone"
	// Broken means that the response of the backend broke off.
	Broken Result = "backend_broken"
	// Timeout means that a limit of the rule, or the listener's idle timeout, cut the
	// response off.
	Timeout Result = "timeout"
)

// recorder is a ResponseWriter that notes what becomes of a request.
type recorder struct {
	http.ResponseWriter
	Served
	up, down atomic.Int64
	headers  atomic.Int64 // that were sent
	gone     atomic.Bool  // the client takes no more
}

// Unwrap serves http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(code int) {
	w.headers.Add(1)
	if code >= 200 {
		w.Status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.down.Add(int64(n))
	if err != nil {
		w.gone.Store(true)
	}
	return n, err
}

// moved returns a number that grows with everything that passes.
func (w *recorder) moved() int64 { return w.up.Load() + w.down.Load() + w.headers.Load() }

// left tells whether the client is gone.
func (w *recorder) left(r *http.Request) bool { return w.gone.Load() || r.Context().Err() != nil }

// Hijack implements http.Hijacker. What becomes of the connection is a tunnel.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.Status = http.StatusSwitchingProtocols
	return &recordedConn{conn, w}, rw, nil
}

// end is deferred: it sees a response that broke off as a panic, which goes on.
func (w *recorder) end(h *Handler, r *http.Request, x *exchange) {
	v := recover()
	w.Up, w.Down = w.up.Load(), w.down.Load()
	switch {
	case x.expired():
		w.Result = Timeout
	case v == nil && !x.broke.Load():
		w.Result = Done
	case !x.broke.Load() && w.left(r):
		w.Result = ClientGone
	default:
		w.Result = Broken
	}
	if h.Done != nil {
		h.Done(r, w.Served)
	}
	if v != nil {
		panic(v)
	}
}

// recordedConn is the client's end of a tunnel.
type recordedConn struct {
	net.Conn
	w *recorder
}

func (c *recordedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.w.up.Add(int64(n))
	return n, err
}

func (c *recordedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.w.down.Add(int64(n))
	return n, err
}

func (c *recordedConn) CloseWrite() error { return closeWrite(c.Conn) }
