// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPlaintext is the largest content of a TLS record.
const maxPlaintext = 16 << 10

// TLS carries a connection whose client leg was terminated: client is the
// established TLS state over w. It returns when both directions ended in order
// or when either leg failed; both legs are closed then. Closing them from
// outside (Abort) ends it as well.
func TLS(client *tls.Conn, w *Wire, backend Leg, p *Progress) (End, error) {
	w.polled, w.OnWait = true, nil
	c := carrier{client: w.TCPConn, backend: backend}
	var up sync.WaitGroup
	up.Go(func() { c.end(c.tlsUp(client, w, p)) })
	c.end(c.tlsDown(client, w, p))
	up.Wait()
	return c.finish()
}

// carrier is what the two directions of a connection share.
type carrier struct {
	client, backend Leg
	once            sync.Once
	how             End
	err             error
	// clientFIN and backendFIN are set before the write side of the leg is closed:
	// from then on its socket may be closed in order when it reads EOF.
	clientFIN, backendFIN atomic.Bool
	// downEnded is set when the backend's end was passed on in order.
	downEnded atomic.Bool
}

// settle waits until the client has the whole of a stream that ended in order:
// a reset would take from it what the kernel still holds. What the client sends
// has no receiver any more; it is dropped, lest the client wait for us before
// it reads. Closing the leg from outside (Abort) ends it as well.
func settle(client Leg) {
	sc, ok := client.(syscall.Conn)
	if !ok {
		return
	}
	var in socket
	in.init(client)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		if i := tcpInfo(sc); i.State == 0 || i.State == unix.BPF_TCP_CLOSE || outQueue(sc) == 0 {
			return
		}
		_ = in.raw.Control(func(fd uintptr) {
			for in.try(fd) && in.err == nil {
				buffers.Put(in.buf)
			}
			in.err = nil
		})
		time.Sleep(pause)
	}
}

// end takes the outcome of one direction. The first failure resets both legs,
// which ends the other direction too.
func (c *carrier) end(how End, err error) {
	if how == Done {
		return
	}
	c.once.Do(func() {
		c.how, c.err = how, err
		Abort(c.backend)
		if how == BackendReset && c.downEnded.Load() {
			settle(c.client)
		}
		Abort(c.client)
	})
}

func (c *carrier) finish() (End, error) {
	c.once.Do(func() {
		c.how = Done
		Finish(c.backend)
		Finish(c.client)
	})
	return c.how, c.err
}

// tlsUp carries client to backend: each round decrypts all that has come, into
// one buffer, for one write.
func (c *carrier) tlsUp(client *tls.Conn, w *Wire, p *Progress) (End, error) {
	var out sink
	out.init(c.backend)
	for {
		if len(w.pending) == 0 {
			if err := w.fill(); err != nil {
				return clientEnd(err), err
			}
		}
		b := buffers.Get().(*buffer)
		n, err := 0, error(nil)
		for err == nil && n <= bufferSize-maxPlaintext {
			var m int
			m, err = client.Read(b.b[n:bufferSize])
			n += m
		}
		if n > 0 {
			p.Up.Add(int64(n))
			if werr := out.write(b.b[:n]); werr != nil {
				buffers.Put(b)
				return BackendReset, werr
			}
		}
		buffers.Put(b)
		switch {
		case err == nil || errors.Is(err, errAgain):
		case errors.Is(err, io.EOF):
			c.backendFIN.Store(true)
			if err := c.backend.CloseWrite(); err != nil {
				return BackendReset, err
			}
			p.Ended.Add(1)
			return Done, nil
		default:
			return clientEnd(err), err
		}
	}
}

// tlsDown carries backend to client. Several records of one round leave in one
// write; a message of one record is never kept back.
func (c *carrier) tlsDown(client *tls.Conn, w *Wire, p *Progress) (End, error) {
	var in socket
	in.init(c.backend)
	for {
		b, n, err := in.read()
		switch {
		case errors.Is(err, io.EOF) && (in.inOrder() || c.backendFIN.Load()):
			if err := c.endClient(client, w); err != nil {
				return ClientReset, err
			}
			c.downEnded.Store(true)
			p.Ended.Add(1)
			return Done, nil
		case errors.Is(err, io.EOF):
			return BackendReset, errReset
		case err != nil:
			return BackendReset, err
		}
		p.Down.Add(int64(n))
		if n > maxPlaintext {
			w.cork()
			_, err = client.Write(b.b[:n])
			err = errors.Join(err, w.uncork())
		} else {
			_, err = client.Write(b.b[:n])
		}
		buffers.Put(b)
		if err != nil {
			return ClientReset, err
		}
	}
}

// endClient passes the backend's end on. Most clients close their socket right
// after their own close_notify: ours then meets a reset, which takes nothing
// from one who has acknowledged every byte before it.
func (c *carrier) endClient(client *tls.Conn, w *Wire) error {
	info := tcpInfo(w.TCPConn)
	all := info.Bytes_acked + uint64(outQueue(w.TCPConn))
	err := client.CloseWrite()
	if err == nil {
		err = w.CloseWrite()
	}
	if err != nil && c.backendFIN.Load() && info.State != 0 && tcpInfo(w.TCPConn).Bytes_acked >= all {
		return nil
	}
	return err
}

// clientEnd classifies what a read of the client leg failed with.
func clientEnd(err error) End {
	var op *net.OpError
	switch {
	case errors.Is(err, ErrTruncated):
		return ClientTruncated
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return ClientTLS
	}
	var alert tls.AlertError
	var header tls.RecordHeaderError
	if errors.As(err, &alert) || errors.As(err, &header) {
		return ClientTLS
	}
	return ClientReset
}
