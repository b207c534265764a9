// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"net"
	"sync"
)

// quiet is a connection of HTTP/1 to a backend that knows whether somebody waits for
// bytes on it. http.Transport offers a connection to the next request before it looks
// whether there is something behind the response, such as the body of a response to
// HEAD: a request that was fast would get that for its response, and it may be what
// another client had the backend say.
type quiet struct {
	net.Conn
	mu      sync.Mutex
	changed sync.Cond
	reading bool
	closed  bool
}

func newQuiet(c net.Conn) *quiet {
	q := &quiet{Conn: c}
	q.changed.L = &q.mu
	return q
}

// await returns when whoever reads has taken all that there was, and waits for more,
// or has closed the connection. Before a request has it, that is soon.
func (q *quiet) await() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.reading && !q.closed {
		q.changed.Wait()
	}
}

func (q *quiet) set(field *bool, to bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	*field = to
	q.changed.Broadcast()
}

func (q *quiet) Read(p []byte) (int, error) {
	q.set(&q.reading, true)
	n, err := q.Conn.Read(p)
	q.set(&q.reading, false)
	return n, err
}

func (q *quiet) Close() error {
	err := q.Conn.Close()
	q.set(&q.closed, true)
	return err
}

func (q *quiet) CloseWrite() error { return closeWrite(q.Conn) }
