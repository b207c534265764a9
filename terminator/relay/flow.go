// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// maxPlaintext is the largest content of a TLS record.
const maxPlaintext = 16 << 10

// source is where a direction comes from.
type source interface {
	// next waits for bytes and returns them in a buffer that the caller puts
	// back. io.EOF is an end that came in order.
	next() (*buffer, int, error)
}

// target is where a direction goes to.
type target interface {
	write(p []byte) error
	// end passes on that the source ended in order.
	end() error
}

// flow is one direction of a connection.
type flow struct {
	from    source
	to      target
	fin     *atomic.Bool // set before the end is passed on
	ended   *atomic.Bool // set after that, or nil
	count   func(n int)
	fromEnd func(error) End
	toEnd   End
}

func (f *flow) carry(p *Progress) (End, error) {
	for {
		b, n, err := f.from.next()
		switch {
		case errors.Is(err, io.EOF):
			f.fin.Store(true)
			if err := f.to.end(); err != nil {
				return f.toEnd, err
			}
			if f.ended != nil {
				f.ended.Store(true)
			}
			p.Ended.Add(1)
			return Done, nil
		case err != nil:
			return f.fromEnd(err), err
		}
		f.count(n)
		err = f.to.write(b.b[:n])
		b.put()
		if err != nil {
			return f.toEnd, err
		}
	}
}

// source is the reading half of a side. closing tells that its write side is
// closed, or about to be.
func (s Side) source(closing *atomic.Bool) source {
	switch {
	case s.Record != nil:
		return newRecordSource(s.Record, s.Wire)
	case s.TLS != nil:
		s.Wire.polled, s.Wire.OnWait = true, nil
		return &tlsSource{conn: s.TLS, wire: s.Wire}
	}
	p := &plainSource{closing: closing}
	p.in.init(s.Leg)
	return p
}

// target is the writing half of a side. ended tells that the side's own stream
// came to its end in order.
func (s Side) target(ended *atomic.Bool) target {
	switch {
	case s.Record != nil:
		return &recordTarget{conn: s.Record, closing: closing{s.Record, s.Wire, ended}}
	case s.TLS != nil:
		return &tlsTarget{conn: s.TLS, closing: closing{s.TLS, s.Wire, ended}}
	}
	p := &plainTarget{leg: s.Leg}
	p.out.init(s.Leg)
	return p
}

type plainSource struct {
	in      socket
	closing *atomic.Bool
}

func (s *plainSource) next() (*buffer, int, error) {
	b, n, err := s.in.read()
	if errors.Is(err, io.EOF) && !s.in.inOrder() && !s.closing.Load() {
		err = errReset
	}
	return b, n, err
}

type plainTarget struct {
	out sink
	leg Leg
}

func (t *plainTarget) write(p []byte) error { return t.out.write(p) }
func (t *plainTarget) end() error           { return t.leg.CloseWrite() }

// tlsSource decrypts, each time, all that has come.
type tlsSource struct {
	conn *tls.Conn
	wire *Wire
	err  error // for the next call
}

func (s *tlsSource) next() (*buffer, int, error) {
	for s.err == nil {
		if len(s.wire.pending) == 0 {
			if err := s.wire.fill(); err != nil {
				return nil, 0, err
			}
		}
		b := newBuffer()
		n, err := 0, error(nil)
		for err == nil && n <= bufferSize-maxPlaintext {
			var m int
			m, err = s.conn.Read(b.b[n:bufferSize])
			n += m
		}
		switch {
		case err == nil, errors.Is(err, errAgain):
		case errors.Is(err, io.EOF), isSyscall(err):
			s.err = err
		default:
			s.err = protocolError{err}
		}
		if n > 0 {
			return b, n, nil
		}
		b.put()
	}
	return nil, 0, s.err
}

// protocolError is what crypto/tls finds wrong with bytes that it has got. Some of it
// does not tell by itself: "too many ignored records".
type protocolError struct{ error }

func (e protocolError) Unwrap() error { return e.error }

// isSyscall tells of a socket's error: crypto/tls answers some of what it reads.
func isSyscall(err error) bool {
	_, is := errors.AsType[syscall.Errno](err)
	return is
}

type tlsTarget struct {
	conn *tls.Conn
	closing
}

// write lets several records leave in one write; a message of one record is
// never kept back.
func (t *tlsTarget) write(p []byte) error {
	if len(p) <= maxPlaintext {
		_, err := t.conn.Write(p)
		return err
	}
	t.wire.cork()
	_, err := t.conn.Write(p)
	return errors.Join(err, t.wire.uncork())
}

// closing is the end of a TLS leg that is written to.
type closing struct {
	notify interface{ CloseWrite() error } // sends close_notify
	wire   *Wire
	ended  *atomic.Bool // the leg's own stream came to its end in order
}

// end sends close_notify and FIN. Most peers close their socket right after
// their own close_notify: ours then meets a reset, which takes nothing from one
// who has acknowledged every byte before it.
func (t *closing) end() error {
	info := tcpInfo(t.wire.TCPConn)
	all := info.Bytes_acked + uint64(outQueue(t.wire.TCPConn))
	err := t.notify.CloseWrite()
	if err == nil {
		err = t.wire.CloseWrite()
	}
	if err != nil && t.ended.Load() && info.State != 0 && tcpInfo(t.wire.TCPConn).Bytes_acked >= all {
		return nil
	}
	return err
}

// clientEnd classifies what a read of the client leg failed with.
func clientEnd(err error) End { return classify(err, ClientTruncated, ClientTLS, ClientReset) }

// backendEnd does so for the backend leg.
func backendEnd(err error) End { return classify(err, BackendTruncated, BackendTLS, BackendReset) }

func classify(err error, truncated, broken, reset End) End {
	var op *net.OpError
	var protocol protocolError
	switch {
	case errors.Is(err, ErrTruncated):
		return truncated
	case errors.As(err, &protocol), errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return broken
	}
	return reset
}
