// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// events are what the kernel half tells. Waiting for them is the Go runtime's
// business, as for sockets: ringbuf.Reader alone would keep a thread in
// epoll_wait(2), and each event would have to wake that and give its processor
// away.
type events struct {
	ring *ringbuf.Reader
	file *os.File // the map, for the runtime to poll
	raw  syscall.RawConn

	closed atomic.Bool
}

func newEvents(m *ebpf.Map) (_ *events, err error) {
	e := &events{}
	if e.ring, err = ringbuf.NewReader(m); err != nil {
		return nil, err
	}
	e.ring.SetDeadline(time.Unix(1, 0)) // never waits
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, e.ring.Close())
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd), e.ring.Close())
	}
	e.file = os.NewFile(uintptr(fd), "sl_events")
	if e.raw, err = e.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	return e, nil
}

// next waits for an event. It returns os.ErrDeadlineExceeded when none comes
// until then, and os.ErrClosed after close.
func (e *events) next(until time.Time) (event bpf.SpliceSlEvent, err error) {
	defer func() {
		if err != nil && e.closed.Load() {
			err = os.ErrClosed
		}
	}()
	if err := e.file.SetReadDeadline(until); err != nil {
		return event, err
	}
	var record ringbuf.Record
	var ringErr error
	err = e.raw.Read(func(uintptr) bool {
		ringErr = e.ring.ReadInto(&record)
		return !errors.Is(ringErr, os.ErrDeadlineExceeded)
	})
	if err != nil {
		return event, err
	}
	if ringErr != nil {
		return event, ringErr
	}
	err = binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &event)
	if err != nil {
		return event, fmt.Errorf("event of %d bytes: %w", len(record.RawSample), err)
	}
	return event, nil
}

func (e *events) close() error {
	e.closed.Store(true)
	return errors.Join(e.file.Close(), e.ring.Close())
}
