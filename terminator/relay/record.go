// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"sync"

	"github.com/sluice-gateway/sluice/terminator/record"
)

// recordSource decrypts, each time, all whole records that have come.
type recordSource struct {
	conn *record.Conn
	wire *Wire
	rest *rest // of wire.in.rest, which is part of a record; or nil
	err  error // for the next call
}

// rest holds part of a record while its other part is on the way.
type rest struct{ b [record.MaxRecord]byte }

var rests = sync.Pool{New: func() any { return new(rest) }}

func newRecordSource(conn *record.Conn, w *Wire) *recordSource {
	w.OnWait = nil
	return &recordSource{conn: conn, wire: w}
}

func (s *recordSource) next() (*buffer, int, error) {
	for s.err == nil {
		if len(s.wire.pending) == 0 { // else it came with the end of the handshake
			if err := s.wire.fill(); err != nil {
				return nil, 0, err
			}
		}
		b := newBuffer()
		data, err := s.open(b.b[:0])
		s.err = err
		if len(data) > 0 {
			return b, len(data), nil
		}
		b.put()
	}
	return nil, 0, s.err
}

// open decrypts what is pending and keeps what is not a whole record.
func (s *recordSource) open(dst []byte) ([]byte, error) {
	w := s.wire
	data, done, err := s.conn.Open(dst, w.pending)
	left := w.pending[done:]
	switch {
	case len(left) > 0 && err == nil:
		if s.rest == nil {
			s.rest = rests.Get().(*rest)
		}
		w.in.rest = s.rest.b[:copy(s.rest.b[:], left)]
	case s.rest != nil:
		w.in.rest = nil
		rests.Put(s.rest)
		s.rest = nil
	}
	w.pending = nil
	if w.buf != nil {
		w.buf.put()
		w.buf = nil
	}
	return data, err
}

// recordTarget encrypts each batch into one write.
type recordTarget struct {
	conn *record.Conn
	closing
}

func (t *recordTarget) write(p []byte) error { return t.conn.Send(p) }
