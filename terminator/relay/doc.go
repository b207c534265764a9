// SPDX-License-Identifier: Apache-2.0

// Package relay carries established connections between a client and a
// backend: [Carry] where the gateway speaks TLS with the client, the backend or
// both, [TCP] for bytes that pass as they are.
//
// A stream that broke never looks finished. Only a close_notify (TLS) or a FIN
// (TCP) that came in order is passed on as an end, one direction at a time;
// whatever else ends a leg resets both. The legs carry SO_LINGER {1, 0} while
// they live, so that even a killed process resets them.
package relay

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Leg is one side of a connection. It must be a *net.TCPConn, or a connection
// that behaves as one. If it has a SyscallConn, bytes are read by read(2) on its
// descriptor; at an end of file its own Read says what that means. Unless it is a
// *net.TCPConn they are written by its own Write, and splice(2) is not used.
// Nothing is written after CloseWrite.
type Leg interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// End says how a connection ended. The values are metric labels.
type End string

// The ends that a relay sees.
const (
	// Done means that both directions ended in order.
	Done End = "done"
	// ClientReset means that the client leg failed.
	ClientReset End = "client_reset"
	// ClientTruncated means that a TLS client ended TCP without close_notify.
	ClientTruncated End = "client_truncated"
	// ClientTLS means that the client broke the TLS protocol or sent an alert.
	ClientTLS End = "client_tls_error"
	// BackendReset means that the backend leg failed.
	BackendReset End = "backend_reset"
	// BackendTruncated means that a TLS backend ended TCP without close_notify.
	BackendTruncated End = "backend_truncated"
	// BackendTLS means that the backend broke the TLS protocol or sent an alert.
	BackendTLS End = "backend_tls_error"
)

// ErrTruncated is what a Wire reads where the peer ended TCP. crypto/tls
// would take an io.EOF between two records for an orderly end.
var ErrTruncated = errors.New("TCP ended without close_notify")

// errReset stands for a reset whose error another system call on the same
// socket has consumed already.
var errReset error = syscall.ECONNRESET

// Progress counts the payload bytes of a connection while it runs.
type Progress struct {
	// Up is what came from the client, Down from the backend. They count before
	// the bytes are passed on, so that whoever has got some finds them counted.
	Up, Down atomic.Int64
	// First is when the first byte came from the backend, in nanoseconds since
	// 1970; 0 before, and where the kernel carries them. Who has counted it makes it
	// negative.
	First atomic.Int64
	// Ended counts the directions that ended in order.
	Ended atomic.Int32
}

// up counts bytes from the client.
func (p *Progress) up(n int) { p.Up.Add(int64(n)) }

// down counts bytes from the backend.
func (p *Progress) down(n int) {
	if p.Down.Add(int64(n)) == int64(n) {
		p.First.Store(time.Now().UnixNano())
	}
}

// Abort resets a leg: its peer must not take what it got for a whole stream.
func Abort(l Leg) {
	_ = l.SetLinger(0)
	_ = l.Close()
}

// Finish closes a leg whose streams both ended in order. The kernel delivers
// what it still holds.
func Finish(l Leg) {
	_ = l.SetLinger(-1)
	_ = l.Close()
}
