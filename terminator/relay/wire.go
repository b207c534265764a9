// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// maxHello bounds what is kept of a client that has not yet sent a whole
// ClientHello. Those of today's clients are under 2 KiB.
const maxHello = 16 << 10

// ErrHelloTooLong is what a Wire reads after 16 KiB without a verdict.
var ErrHelloTooLong = errors.New("no complete ClientHello in 16 KiB")

// errAgain ends a Read for lack of bytes. crypto/tls keeps its state when an
// error is temporary, so that reading can go on later.
var errAgain net.Error = again{}

type again struct{}

func (again) Error() string   { return "no bytes yet" }
func (again) Timeout() bool   { return false }
func (again) Temporary() bool { return true }

// Wire is the net.Conn between crypto/tls and the peer's socket. It starts
// undecided: what it reads is kept and what is written is held back, until
// [Wire.Decide] lets TLS go on or [Wire.Replay] takes the bytes back.
//
// It reads up to 64 KiB a system call and gives TLS no more than one record at
// a time, it holds no buffer while it waits, and it can join the records of one
// write into one system call.
type Wire struct {
	*net.TCPConn
	// OnWait, when set, is called before a Read waits for the client.
	OnWait func()

	in      socket
	buf     *buffer // owns pending, nil when hello does
	pending []byte  // read from the socket, not yet given to TLS
	header  [5]byte // of the record that TLS is being given
	have    int     // bytes of header that TLS has
	left    int     // bytes of the record that TLS still lacks

	undecided bool
	hello     []byte // all that was read while undecided
	fed       int    // of it, what TLS has

	polled bool // Read never waits: fill does
	write  sync.Mutex
	dst    sink
	held   []byte
	corked bool
	out    *buffer
	queued int
}

// NewWire returns the wire of a connection that was just accepted.
func NewWire(c *net.TCPConn) *Wire {
	w := &Wire{TCPConn: c, undecided: true}
	w.in.init(c)
	w.dst.init(c)
	return w
}

// Decide lets TLS go on with what it has seen.
func (w *Wire) Decide() {
	w.write.Lock()
	defer w.write.Unlock()
	w.undecided = false
	w.pending, w.hello = w.hello[w.fed:], nil
}

// AtRecord tells whether TLS has been given whole records and nothing more.
func (w *Wire) AtRecord() bool { return !w.undecided && w.have == 0 && w.left == 0 }

// Replay returns every byte that was read and forgets what was held back. The
// connection is the caller's from then on.
func (w *Wire) Replay() []byte { return w.hello }

// Held returns what TLS wanted to write before the verdict, an alert.
func (w *Wire) Held() []byte { return w.held }

// Read gives TLS bytes of at most one record.
func (w *Wire) Read(p []byte) (int, error) {
	if w.undecided {
		return w.readHello(p)
	}
	if len(w.pending) == 0 {
		if w.polled {
			return 0, errAgain
		}
		if w.OnWait != nil {
			w.OnWait()
		}
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.pending[:w.bound(len(p))])
	w.pending = w.pending[n:]
	if len(w.pending) == 0 && w.buf != nil {
		w.buf.put()
		w.buf = nil
	}
	return n, nil
}

// Await waits for bytes of a client while undecided, and keeps them. To call it before
// TLS has the connection spares a client that is silent the state and the stack of that.
func (w *Wire) Await() error {
	b, n, err := w.in.read()
	if err != nil {
		return truncated(err)
	}
	w.hello = append(w.hello, b.b[:n]...)
	b.put()
	return nil
}

// readHello is Read while undecided. The verdict falls inside of TLS, so a
// record that ends here is not known to be the last.
func (w *Wire) readHello(p []byte) (int, error) {
	if w.fed >= maxHello { // and not what was read, which is up to how it was cut
		return 0, ErrHelloTooLong
	}
	if w.fed == len(w.hello) {
		if err := w.Await(); err != nil {
			return 0, err
		}
	}
	w.pending = w.hello[w.fed:]
	n := copy(p, w.pending[:w.bound(min(len(p), maxHello-w.fed))])
	w.fed += n
	return n, nil
}

// bound says how many of the pending bytes TLS may have, at most limit, and
// counts them: none of the next record.
func (w *Wire) bound(limit int) int {
	n := min(limit, len(w.pending))
	give := 0
	if w.left == 0 {
		give = copy(w.header[w.have:], w.pending[:n])
		if w.have += give; w.have < len(w.header) {
			return give
		}
		w.have, w.left = 0, int(w.header[3])<<8|int(w.header[4])
	}
	body := min(w.left, n-give)
	w.left -= body
	return give + body
}

// fill waits for bytes of the client. It holds no buffer meanwhile.
func (w *Wire) fill() error {
	b, n, err := w.in.read()
	if err != nil {
		return truncated(err)
	}
	w.buf, w.pending = b, b.b[:n]
	return nil
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return ErrTruncated
	}
	return err
}

// Write sends p, or keeps it while undecided or corked.
func (w *Wire) Write(p []byte) (int, error) {
	w.write.Lock()
	defer w.write.Unlock()
	switch {
	case w.undecided:
		w.held = append(w.held, p...)
		return len(p), nil
	case !w.corked:
		return w.send(p)
	}
	if w.queued+len(p) > len(w.out.b) {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	w.queued += copy(w.out.b[w.queued:], p)
	return len(p), nil
}

// SetWriteDeadline does nothing once the relay runs. crypto/tls gives a
// close_notify five seconds, and a client that reads slowly must not lose the
// end of its stream to that.
func (w *Wire) SetWriteDeadline(t time.Time) error {
	if w.polled {
		return nil
	}
	return w.TCPConn.SetWriteDeadline(t)
}

// cork makes writes wait for uncork.
func (w *Wire) cork() {
	w.write.Lock()
	defer w.write.Unlock()
	w.corked, w.out = true, newBuffer()
}

// uncork sends what was kept in one write.
func (w *Wire) uncork() error {
	w.write.Lock()
	defer w.write.Unlock()
	err := w.flush()
	w.out.put()
	w.corked, w.out = false, nil
	return err
}

func (w *Wire) flush() error {
	_, err := w.send(w.out.b[:w.queued])
	w.queued = 0
	return err
}

func (w *Wire) send(p []byte) (int, error) {
	if err := w.dst.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Refuse sends the client a last message, usually an alert, and closes. It
// waits a moment for the client to close first: a reset for bytes that it sent
// and nobody read would take the message away from it.
func (w *Wire) Refuse(message []byte) {
	defer Finish(w.TCPConn)
	_ = w.SetDeadline(time.Now().Add(time.Second))
	if _, err := w.TCPConn.Write(message); err != nil || w.CloseWrite() != nil {
		return
	}
	for range 16 {
		b, _, err := w.in.read()
		if err != nil {
			return
		}
		b.put()
	}
}
