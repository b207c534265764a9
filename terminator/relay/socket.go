// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bufferSize is what one system call reads at most: four TLS records of the
// largest size.
const bufferSize = 64 << 10

// bulkSize is what it reads on a loop while bytes come in bulk: what a batch costs
// beside its bytes (a wait, system calls, acknowledgements, somebody to wake) weighs
// a quarter then.
const bulkSize = 256 << 10

// Buffers of plaintext as TLS records: each record adds at most 5 bytes of header
// and 256 of expansion (RFC 8446 section 5.2).
const (
	sealedSize = bufferSize + (bufferSize/maxPlaintext+1)*(5+256)
	sealedBulk = bulkSize + (bulkSize/maxPlaintext+1)*(5+256)
)

// buffer has room for what one read takes, of either size, and for its records.
type buffer struct{ b []byte }

var (
	buffers     = sync.Pool{New: func() any { return &buffer{make([]byte, sealedSize)} }}
	bulkBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, sealedBulk)} }}
)

func newBuffer() *buffer { return buffers.Get().(*buffer) }

// bufferOf returns one for a read of at most so many bytes.
func bufferOf(size int) *buffer {
	if size > bufferSize {
		return bulkBuffers.Get().(*buffer)
	}
	return newBuffer()
}

func (b *buffer) put() {
	if len(b.b) == sealedBulk {
		bulkBuffers.Put(b)
	} else {
		buffers.Put(b)
	}
}

// socket reads from a leg without holding a buffer while it waits: the buffer
// is taken when the descriptor has bytes.
type socket struct {
	leg   Leg
	plain bool            // a *net.TCPConn: the descriptor says all
	raw   syscall.RawConn // nil when the leg has no descriptor to offer
	step  func(fd uintptr) bool
	rest  []byte // comes before what is read next
	buf   *buffer
	n     int
	err   error
}

func (s *socket) init(l Leg) {
	s.leg = l
	_, s.plain = l.(*net.TCPConn)
	if sc, ok := l.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn()
	}
	s.step = s.try
}

// try is one non-blocking read. It returns false when the descriptor has no
// bytes, which makes the runtime wait for some.
func (s *socket) try(fd uintptr) bool {
	b := newBuffer()
	for {
		n, err := read(fd, b.b[len(s.rest):bufferSize])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			b.put()
			return false
		case err != 0:
			b.put()
			s.err = os.NewSyscallError("read", err)
		case n == 0:
			b.put()
			s.err = io.EOF
		default:
			s.buf, s.n = b, copy(b.b[:], s.rest)+n
		}
		return true
	}
}

// read and write are system calls on descriptors that do not block, and so
// without what the runtime does around those that may: it would take the
// processor away from a goroutine whose packet is on its way to the receiver.
func read(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), err
}

func write(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, err := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), err
}

// read waits for bytes and returns them in a buffer that the caller puts back.
func (s *socket) read() (*buffer, int, error) {
	if s.raw == nil {
		return s.readLeg()
	}
	s.buf, s.n, s.err = nil, 0, nil
	err := s.raw.Read(s.step)
	if err == nil && !errors.Is(s.err, io.EOF) {
		return s.buf, s.n, s.err
	}
	if s.plain {
		return nil, 0, cmp.Or(err, s.err)
	}
	return s.readLeg()
}

// readLeg leaves reading to the leg, which may know more of an end than its
// descriptor does.
func (s *socket) readLeg() (*buffer, int, error) {
	b := newBuffer()
	n, err := s.leg.Read(b.b[:bufferSize])
	if n == 0 {
		b.put()
		return nil, 0, err
	}
	return b, n, nil
}

// inOrder tells whether an EOF was a FIN. After a reset that a write on the
// same socket has reported, read(2) returns 0 as well, but the socket is
// closed instead of waiting for our end.
func (s *socket) inOrder() bool { return s.raw == nil || inOrder(s.raw) }

func inOrder(raw syscall.RawConn) bool {
	state := uint8(unix.BPF_TCP_CLOSE)
	if err := raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	}); err != nil {
		return false
	}
	return state != unix.BPF_TCP_CLOSE
}

// sink writes to a leg.
type sink struct {
	leg  Leg
	raw  syscall.RawConn // nil: the leg writes itself
	step func(fd uintptr) bool
	p    []byte
	err  error
}

func (s *sink) init(l Leg) {
	s.leg = l
	if tcp, ok := l.(*net.TCPConn); ok {
		s.raw, _ = tcp.SyscallConn()
	}
	s.step = s.try
}

// try writes what the socket takes. It returns false when that is not all.
func (s *sink) try(fd uintptr) bool {
	for len(s.p) > 0 {
		n, err := write(fd, s.p)
		switch err {
		case 0:
			s.p = s.p[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			s.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// write sends all of p.
func (s *sink) write(p []byte) error {
	if s.raw == nil {
		_, err := s.leg.Write(p)
		return err
	}
	s.p, s.err = p, nil
	defer func() { s.p = nil }()
	return cmp.Or(s.raw.Write(s.step), s.err)
}
