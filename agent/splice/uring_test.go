// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What of io_uring(7) the tests need: linux/io_uring.h.
const (
	opRead           = 22
	opRecv           = 27
	opSplice         = 30
	opProvideBuffers = 31

	sqeBufferSelect = 1 << 5
	recvMultishot   = 1 << 1 // in ioprio
	cqeBuffer       = 1 << 0
	cqeMore         = 1 << 1
	enterGetEvents  = 1 << 0
	featSingleMmap  = 1 << 0
	offSQEs         = 0x10000000
)

type ringOffsets struct {
	head, tail, mask, entries, flags, dropped, array, resv uint32 // of the completions: overflow, cqes in place of dropped, array
	user                                                   uint64
}

type ringParams struct {
	sqEntries, cqEntries, flags, cpu, idle, features, wq uint32
	resv                                                 [3]uint32
	sq, cq                                               ringOffsets
}

type sqe struct {
	op, flags uint8
	ioprio    uint16
	fd        int32
	off       uint64
	addr      uint64
	len       uint32
	opFlags   uint32
	user      uint64
	group     uint16
	person    uint16
	fdIn      int32
	_         [2]uint64
}

type cqe struct {
	user  uint64
	res   int32
	flags uint32
}

// ring is an io_uring with a buffer that does not move.
type ring struct {
	fd            int
	params        ringParams
	queues, sqeAt []byte
	buf           []byte
}

const ringBuffer = 16 << 10

func newRing() (_ *ring, err error) {
	r := &ring{}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&r.params)), 0)
	if errno != 0 {
		return nil, fmt.Errorf("io_uring_setup: %w", errno)
	}
	r.fd = int(fd)
	if r.params.features&featSingleMmap == 0 {
		return nil, errors.Join(errors.New("this kernel's io_uring has two queues to map"), r.close())
	}
	size := max(r.params.sq.array+4*r.params.sqEntries, r.params.cq.dropped+uint32(unsafe.Sizeof(cqe{}))*r.params.cqEntries)
	if r.queues, err = unix.Mmap(r.fd, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err == nil {
		r.sqeAt, err = unix.Mmap(r.fd, offSQEs, int(r.params.sqEntries)*int(unsafe.Sizeof(sqe{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	}
	if err == nil {
		r.buf, err = unix.Mmap(-1, 0, 4*ringBuffer, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *ring) close() error {
	err := unix.Close(r.fd)
	for _, m := range [][]byte{r.queues, r.sqeAt, r.buf} {
		if m != nil {
			err = errors.Join(err, unix.Munmap(m))
		}
	}
	return err
}

func (r *ring) word(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.queues[offset])) }

func (r *ring) at(part int) uint64 { return uint64(uintptr(unsafe.Pointer(&r.buf[part*ringBuffer]))) }

// submit hands an entry over.
func (r *ring) submit(e sqe) error {
	tail := *r.word(r.params.sq.tail)
	i := tail & *r.word(r.params.sq.mask)
	*(*sqe)(unsafe.Pointer(&r.sqeAt[uintptr(i)*unsafe.Sizeof(e)])) = e
	*r.word(r.params.sq.array + 4*i) = i
	atomic.StoreUint32(r.word(r.params.sq.tail), tail+1)
	for {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 0, 0, 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR && errno != unix.EAGAIN {
			return fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
}

// complete waits for a completion.
func (r *ring) complete() (cqe, error) {
	for {
		head := *r.word(r.params.cq.head)
		if head != atomic.LoadUint32(r.word(r.params.cq.tail)) {
			i := head & *r.word(r.params.cq.mask)
			c := *(*cqe)(unsafe.Pointer(&r.queues[uintptr(r.params.cq.dropped)+uintptr(i)*unsafe.Sizeof(cqe{})]))
			atomic.StoreUint32(r.word(r.params.cq.head), head+1)
			return c, nil
		}
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, 1, enterGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return cqe{}, fmt.Errorf("io_uring_enter: %w", errno)
		}
	}
}

// do submits an entry and waits for its result.
func (r *ring) do(e sqe) (int, error) {
	if err := r.submit(e); err != nil {
		return 0, err
	}
	c, err := r.complete()
	if err == nil && c.res < 0 {
		err = unix.Errno(-c.res)
	}
	return int(max(c.res, 0)), err
}

// uring reads by one operation of io_uring after the other.
func uring(op uint8, flags uint32) func(testing.TB, int) (reading, error) {
	return func(_ testing.TB, fd int) (reading, error) {
		r, err := newRing()
		return &uringReader{ring: r, fd: fd, op: op, flags: flags}, err
	}
}

type uringReader struct {
	*ring
	fd    int
	op    uint8
	flags uint32
}

func (u *uringReader) read(p []byte) (int, error) {
	n, err := u.do(sqe{op: u.op, fd: int32(u.fd), addr: u.at(0), len: uint32(min(len(p), ringBuffer)), opFlags: u.flags})
	return copy(p, u.buf[:n]), err
}

// multishot is one receive that goes on as long as there are buffers.
type multishot struct {
	*ring
	fd    int
	armed bool
	got   []byte // of the buffer below, which is given back when all of it is taken
	of    int
}

func uringMultishot(_ testing.TB, fd int) (reading, error) {
	r, err := newRing()
	if err != nil {
		return nil, err
	}
	m := &multishot{ring: r, fd: fd, of: -1}
	if err := m.provide(0, 4); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return m, nil
}

const provided = 1 // the user data of what provides buffers

func (m *multishot) provide(first, n int) error {
	return m.submit(sqe{op: opProvideBuffers, fd: int32(n), addr: m.at(first), len: ringBuffer, off: uint64(first), group: 7, user: provided})
}

func (m *multishot) read(p []byte) (int, error) {
	for len(m.got) == 0 {
		if m.of >= 0 {
			if err := m.provide(m.of, 1); err != nil {
				return 0, err
			}
			m.of = -1
		}
		if !m.armed {
			m.armed = true
			if err := m.submit(sqe{op: opRecv, flags: sqeBufferSelect, ioprio: recvMultishot, fd: int32(m.fd), group: 7}); err != nil {
				return 0, err
			}
		}
		c, err := m.complete()
		if err != nil {
			return 0, err
		}
		if c.user == provided {
			if c.res < 0 {
				return 0, fmt.Errorf("provide buffers: %w", unix.Errno(-c.res))
			}
			continue
		}
		m.armed = c.flags&cqeMore != 0
		switch {
		case c.res == -int32(unix.ENOBUFS):
			continue // one was given back meanwhile
		case c.res < 0:
			return 0, unix.Errno(-c.res)
		case c.res == 0:
			return 0, nil
		case c.flags&cqeBuffer == 0:
			return 0, errors.New("received without a buffer")
		}
		m.of = int(c.flags >> 16)
		m.got = m.buf[m.of*ringBuffer:][:c.res]
	}
	n := copy(p, m.got)
	m.got = m.got[n:]
	return n, nil
}

// uringSplices is IORING_OP_SPLICE through a pipe.
type uringSplices struct {
	*ring
	fd   int
	pipe [2]int
}

func uringSplice(_ testing.TB, fd int) (reading, error) {
	r, err := newRing()
	if err != nil {
		return nil, err
	}
	s := &uringSplices{ring: r, fd: fd}
	return s, unix.Pipe2(s.pipe[:], unix.O_CLOEXEC)
}

func (s *uringSplices) read(p []byte) (int, error) {
	nowhere := ^uint64(0)
	n, err := s.do(sqe{op: opSplice, fd: int32(s.pipe[1]), off: nowhere, addr: nowhere, fdIn: int32(s.fd), len: uint32(min(len(p), ringBuffer))})
	if err != nil || n == 0 {
		return 0, err
	}
	return unix.Read(s.pipe[0], p[:n])
}

func (s *uringSplices) close() error {
	return errors.Join(s.ring.close(), unix.Close(s.pipe[0]), unix.Close(s.pipe[1]))
}
