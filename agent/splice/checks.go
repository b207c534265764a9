// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// The pattern's byte at an offset depends on the offset alone, with a period of
// a prime: bytes lost, doubled or swapped show.
const patternPeriod = 251

func sendPattern(w io.Writer, offset, n int) error {
	_, err := w.Write(pattern(offset, n))
	return err
}

func pattern(offset, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte((offset + i) % patternPeriod)
	}
	return b
}

func readPattern(r io.Reader, offset, n int) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", n, offset, err)
	}
	return comparePattern(b, offset)
}

func comparePattern(b []byte, offset int) error {
	for i, got := range b {
		if want := byte((offset + i) % patternPeriod); got != want {
			return fmt.Errorf("byte %d is %d, want %d: lost or out of order", offset+i, got, want)
		}
	}
	return nil
}

func checkRecv(p *pair) (string, error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	n := p.agent.Counters()
	return fmt.Sprintf("%d of %d bytes to the backend and %d of %d from it went past TCP",
		n.SplicedOut, n.Sent, n.SplicedIn, n.Received), nil
}

// checkOrder streams through a reader that falls behind and catches up, so that
// bytes take both ways, many times.
func checkOrder(p *pair) (string, error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	for _, way := range [][2]net.Conn{{p.agent, p.backend}, {p.backend, p.agent}} {
		if err := streamThrough(way[0], way[1]); err != nil {
			return "", err
		}
	}
	n := p.agent.Counters()
	return fmt.Sprintf("%d bytes in order, %d of them past TCP", n.Sent+n.Received, n.SplicedOut+n.SplicedIn), nil
}

func streamThrough(from, to net.Conn) error {
	const total = 4 << 20
	sent := make(chan error, 1)
	go func() {
		for offset, n := 0, 1; offset < total; offset += n {
			n = min(total-offset, (n*7)%70001+1)
			if err := sendPattern(from, offset, n); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for offset, n := 0, 1; offset < total; offset += n {
		n = min(total-offset, (n*13)%90001+1)
		if err := readPattern(to, offset, n); err != nil {
			return err
		}
		if n%8 == 0 {
			time.Sleep(200 * time.Microsecond)
		}
	}
	return <-sent
}

func checkBackPressure(p *pair) (string, error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	const atMost = 64 << 20
	if err := p.agent.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		return "", err
	}
	var err error
	sent, n := 0, 0
	for err == nil && sent < atMost {
		n, err = p.agent.Write(pattern(sent, 16<<10))
		sent += n
	}
	switch {
	case err == nil:
		return "", fmt.Errorf("a reader that does not read was sent %d bytes without end", sent)
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return "", fmt.Errorf("writing to a reader that does not read: %w", err)
	}
	_, flow := p.agent.look()
	if flow == nil {
		return "", errors.New("the flow is gone")
	}
	unread := unread(flow)
	if unread != int64(sent) || unread > Credit {
		return "", fmt.Errorf("%d of %d bytes lie redirected and unread, want all and at most %d", unread, sent, Credit)
	}
	if err := readPattern(p.backend, 0, sent); err != nil {
		return "", err
	}
	return fmt.Sprintf("blocked after %d bytes, all of them redirected; all read later", sent), nil
}

func checkEOF(p *pair) (string, error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	const n = 200_000
	for _, way := range []struct {
		from interface {
			net.Conn
			CloseWrite() error
		}
		to net.Conn
	}{{p.agent, p.backend}, {p.backend, p.agent}} {
		if err := sendPattern(way.from, 0, n); err != nil {
			return "", err
		}
		ended := make(chan error, 1)
		go func() { ended <- way.from.CloseWrite() }()
		if err := errors.Join(readPattern(way.to, 0, n), <-ended); err != nil {
			return "", err
		}
		if m, err := way.to.Read(make([]byte, 1)); m != 0 || !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("after the last byte: %d bytes, %v; want end of file", m, err)
		}
	}
	return "after the last redirected byte, both ways", nil
}

// checkLost closes the backend with redirected bytes unread, which must not
// look like an ordinary end.
func checkLost(p *pair) (string, error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	if err := sendPattern(p.agent, 0, 1000); err != nil {
		return "", err
	}
	if err := p.backend.Close(); err != nil {
		return "", err
	}
	p.backend = nil
	if _, err := p.agent.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		return "", fmt.Errorf("backend closed with bytes unread: %v, want connection reset", err)
	}
	return "a backend that closes on unread bytes reads as a reset", nil
}

// checkSplice reads a header and splices the rest, as proxies do.
func checkSplice(p *pair) (string, error) {
	if err := p.pass(p.agent, p.backend, 100); err != nil {
		return "", err
	}
	for i := range 2 * earn {
		if err := sendPattern(p.agent, 1000*i, 1000); err != nil {
			return "", err
		}
		b, err := spliceRead(p.backend, 1000)
		if err != nil {
			return "", err
		}
		if err := comparePattern(b, 1000*i); err != nil {
			return "", err
		}
	}
	_, flow := p.agent.look()
	if flow == nil || flow.Agent.Spliced != 0 {
		return "", errors.New("bytes were redirected to a reader that splices")
	}
	if flow.Backend.Reader != bpf.SpliceSlReaderSlBySplice {
		return "", errors.New("splice(2) was not noticed")
	}
	return "gets its bytes by TCP", nil
}

// checkLateSplice turns to splice(2) after the splice was earned and everything
// read: the flow must stay on TCP from there on.
func checkLateSplice(p *pair) (string, error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	if _, err := spliceRead(p.backend, 0); !errors.Is(err, unix.EAGAIN) {
		return "", fmt.Errorf("splice(2) from an empty socket: %v, want EAGAIN", err)
	}
	if err := sendPattern(p.agent, 0, 1000); err != nil {
		return "", err
	}
	b, err := spliceRead(p.backend, 1000)
	if err != nil {
		return "", err
	}
	return "gets its bytes by TCP from then on", comparePattern(b, 0)
}

// checkStalledSplice turns to splice(2) when more is on its way than may lie
// unread: the backend must get a reset, and no byte before it.
func checkStalledSplice(p *pair) (string, error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	sent := make(chan error, 1)
	go func() { sent <- sendPattern(p.agent, 0, 2*Credit) }()
	for !p.agent.out.waiting.Load() {
		if len(sent) > 0 {
			return "", fmt.Errorf("%d bytes were sent to a reader that does not read: %w", 2*Credit, <-sent)
		}
		time.Sleep(100 * time.Microsecond)
	}
	_, err := spliceRead(p.backend, 1)
	writerErr := <-sent
	if !errors.Is(err, syscall.ECONNRESET) || !errors.Is(writerErr, ErrReaderBlind) {
		return "", fmt.Errorf("late splice(2) got %w and its writer %w, want a reset", err, writerErr)
	}
	return "is reset, and reads no byte out of order", nil
}

// spliceRead reads n bytes by splice(2) through a pipe; with n 0 it tries once.
func spliceRead(c *net.TCPConn, n int) ([]byte, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	got := make([]byte, n)
	for read := 0; read < n || n == 0; {
		var m int64
		var spliceErr error
		err := raw.Read(func(fd uintptr) bool {
			m, spliceErr = unix.Splice(int(fd), nil, fds[1], nil, max(1, n-read), unix.SPLICE_F_NONBLOCK)
			return n == 0 || spliceErr != unix.EAGAIN
		})
		if err = errors.Join(err, spliceErr); err != nil {
			return nil, err
		}
		if m == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		for m > 0 {
			k, err := unix.Read(fds[0], got[read:])
			if err != nil {
				return nil, err
			}
			read += k
			m -= int64(k)
		}
	}
	return got, nil
}

// checkForeign tries to take a member into another sockmap with a program of
// its own: the kernel must refuse, for it would silence ours.
func checkForeign(p *pair) (_ string, err error) {
	if err := p.warm(); err != nil {
		return "", err
	}
	foreign, err := newForeignMap()
	if err != nil {
		return "", err
	}
	defer foreign.Close()
	if err := insert(foreign, p.backend); !errors.Is(err, unix.EBUSY) {
		return "", fmt.Errorf("second owner of a socket: %v, want EBUSY", err)
	}
	if err := p.pass(p.agent, p.backend, 1000); err != nil {
		return "", err
	}
	return "a second owner is refused", nil
}

// newForeignMap returns a sockmap with an sk_msg program that does nothing.
func newForeignMap() (_ *ebpf.Map, err error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "sl_foreign", Type: ebpf.SockMap, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make a sockmap: %w", err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "sl_foreign", Type: ebpf.SkMsg, AttachType: ebpf.AttachSkMsgVerdict,
		License: "Dual BSD/GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err == nil {
		defer prog.Close() // the map keeps it
		err = link.RawAttachProgram(link.RawAttachProgramOptions{
			Target: m.FD(), Program: prog, Attach: ebpf.AttachSkMsgVerdict,
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach to a sockmap: %w", err), m.Close())
	}
	return m, nil
}

func insert(m *ebpf.Map, c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var put error
	err = raw.Control(func(fd uintptr) { put = m.Put(uint32(0), uint32(fd)) })
	return errors.Join(err, put)
}
