// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"sync/atomic"
)

// response passes a backend's response on as it is.
type response struct {
	http.ResponseWriter
	body   *clientBody // of the request
	http1  bool
	http10 bool        // and no later one
	sent   atomic.Bool // the final header
}

// Unwrap serves http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) WriteHeader(code int) {
	if code < 200 {
		if w.http10 {
			return // HTTP/1.0 has none of these: it would be taken for the response
		}
		ownOnly(w.Header())
	} else {
		// net/http would guess a type that the backend did not give.
		h := w.Header()
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil
		}
		if w.http1 && !w.body.complete.Load() {
			// What is left of this request must not be read as the next one,
			// and with full duplex net/http does not see to that.
			h.Set("Connection", "close")
		}
		w.sent.Store(true)
	}
	w.ResponseWriter.WriteHeader(code)
}

// ofConnection are the fields that say something of one connection alone (RFC 9110
// section 7.6.1). For a client of HTTP/2 they make a response malformed (RFC 9113
// section 8.2.2).
var ofConnection = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// ownOnly takes the fields of the backend's connection out of an interim response;
// ReverseProxy does so with final ones alone.
func ownOnly(h http.Header) {
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(textproto.TrimString(name))
		}
	}
	for _, name := range ofConnection {
		h.Del(name)
	}
}

// Hijack returns a connection that reads what net/http had read ahead, which
// ReverseProxy would drop.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if ahead, _ := rw.Peek(rw.Reader.Buffered()); len(ahead) > 0 {
		w.body.read.Add(int64(len(ahead)))
		conn = &readAhead{conn, bytes.NewReader(bytes.Clone(ahead))}
	}
	return conn, rw, nil
}

// readAhead is a connection of which some bytes were read already.
type readAhead struct {
	net.Conn
	ahead *bytes.Reader
}

func (c *readAhead) Read(p []byte) (int, error) {
	if c.ahead.Len() > 0 {
		return c.ahead.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *readAhead) CloseWrite() error { return closeWrite(c.Conn) }

// tunnel is the backend's end of an upgraded connection. A break of it is told
// before the client's end is closed, so that it does not look like an end.
type tunnel struct {
	io.ReadWriteCloser
	broke func()
}

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		t.broke()
	}
	return n, err
}

func (t *tunnel) CloseWrite() error { return closeWrite(t.ReadWriteCloser) }

func closeWrite(c any) error {
	if cw, ok := c.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
