// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is what one system call reads at most: four TLS records of the
// largest size. More gained nothing measurable.
const bufferSize = 64 << 10

// sealedSize has room for a buffer of plaintext as TLS records: each adds at
// most 5 bytes of header and 256 of expansion (RFC 8446 section 5.2).
const sealedSize = bufferSize + (bufferSize/(16<<10)+1)*(5+256)

type buffer struct{ b [sealedSize]byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// socket reads from a leg without holding a buffer while it waits: the buffer
// is taken when the descriptor has bytes.
type socket struct {
	leg  Leg
	raw  syscall.RawConn // nil when the leg has no descriptor to offer
	step func(fd uintptr) bool
	buf  *buffer
	n    int
	err  error
}

func (s *socket) init(l Leg) {
	s.leg = l
	if sc, ok := l.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn()
	}
	s.step = s.try
}

// try is one non-blocking read. It returns false when the descriptor has no
// bytes, which makes the runtime wait for some.
func (s *socket) try(fd uintptr) bool {
	b := buffers.Get().(*buffer)
	for {
		n, err := unix.Read(int(fd), b.b[:bufferSize])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			buffers.Put(b)
			return false
		case err != nil:
			buffers.Put(b)
			s.err = os.NewSyscallError("read", err)
		case n == 0:
			buffers.Put(b)
			s.err = io.EOF
		default:
			s.buf, s.n = b, n
		}
		return true
	}
}

// read waits for bytes and returns them in a buffer that the caller puts back.
func (s *socket) read() (*buffer, int, error) {
	s.buf, s.n, s.err = nil, 0, nil
	if s.raw == nil {
		b := buffers.Get().(*buffer)
		n, err := s.leg.Read(b.b[:bufferSize])
		if n == 0 {
			buffers.Put(b)
			return nil, 0, err
		}
		return b, n, nil
	}
	if err := s.raw.Read(s.step); err != nil {
		return nil, 0, err
	}
	return s.buf, s.n, s.err
}

// inOrder tells whether an EOF was a FIN. After a reset that a write on the
// same socket has reported, read(2) returns 0 as well, but the socket is
// closed instead of waiting for our end.
func (s *socket) inOrder() bool {
	if s.raw == nil {
		return true
	}
	state := uint8(unix.BPF_TCP_CLOSE)
	if err := s.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	}); err != nil {
		return false
	}
	return state != unix.BPF_TCP_CLOSE
}

// writeAll writes p. A sockmap member answers ENOMEM or ENOBUFS when the node
// is short of socket memory for a moment: that is back-pressure, not the end
// of the connection.
func writeAll(l Leg, p []byte) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		n, err := l.Write(p)
		if err == nil || (!errors.Is(err, syscall.ENOMEM) && !errors.Is(err, syscall.ENOBUFS)) {
			return err
		}
		p = p[n:]
		time.Sleep(pause)
	}
}
