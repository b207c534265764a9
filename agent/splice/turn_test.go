// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// splicing reads a connection by splice(2).
type splicing struct {
	raw  syscall.RawConn
	pipe [2]int
}

func newSplicing(c *net.TCPConn) (*splicing, error) {
	s := &splicing{}
	var err error
	if s.raw, err = c.SyscallConn(); err != nil {
		return nil, err
	}
	return s, unix.Pipe2(s.pipe[:], unix.O_CLOEXEC)
}

func (s *splicing) Read(p []byte) (int, error) {
	var n int64
	var spliceErr error
	err := s.raw.Read(func(fd uintptr) bool {
		n, spliceErr = unix.Splice(int(fd), nil, s.pipe[1], nil, min(len(p), 64<<10), unix.SPLICE_F_NONBLOCK)
		return spliceErr != unix.EAGAIN
	})
	switch err := errors.Join(err, spliceErr); {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return io.ReadFull(fdReader(s.pipe[0]), p[:n])
}

func (s *splicing) Close() error { return errors.Join(unix.Close(s.pipe[0]), unix.Close(s.pipe[1])) }

type fdReader int

func (fd fdReader) Read(p []byte) (int, error) { return unix.Read(int(fd), p) }

// A backend that has earned the splice, stalls while more is sent than may lie
// redirected, and then turns to splice(2): it gets the rest of the stream in
// order, or a reset. SLUICE_LONG=1 for 20,000 of them.
func TestReaderThatTurnsToSpliceGetsNoByteOutOfOrder(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), On) // do not learn
	total, atATime := long(400, 20_000), 20
	count := &figures.Figures{Connections: int64(total), Faults: int64(total)}
	figures.Record(t, count)
	var whole, reset, beyond atomic.Int64
	for done := 0; done < total; done += atATime {
		var pairs []*pair
		for range atATime {
			p, err := earned(t, s, l)
			if err != nil {
				t.Fatal(err)
			}
			pairs = append(pairs, p)
		}
		var wg sync.WaitGroup
		for i, p := range pairs {
			wg.Go(func() {
				end, full, err := turn(p, uint64(done+i))
				if err != nil {
					t.Errorf("connection %d: %v", done+i, err)
				}
				if full {
					beyond.Add(1)
				}
				if errors.Is(end, syscall.ECONNRESET) {
					reset.Add(1)
				} else {
					whole.Add(1)
				}
			})
		}
		wg.Wait()
	}
	count.What = fmt.Sprintf("the backend stalls and turns to splice(2): %d streams were whole and %d reset; %d turned while the agent waited", whole.Load(), reset.Load(), beyond.Load())
	t.Log(count.What)
	if whole.Load() == 0 || reset.Load() == 0 || beyond.Load() == 0 {
		t.Error("want some of each")
	}
}

func earned(t testing.TB, s *Splicer, l *net.TCPListener) (*pair, error) {
	c, err := s.dial(t.Context(), nil, "tcp", addrOf(l).String())
	if err != nil {
		return nil, err
	}
	b, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	p := &pair{splicer: s, agent: c, backend: b}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_ = b.SetDeadline(time.Now().Add(time.Minute))
	return p, p.warm()
}

// turn sends a stream to a backend that stalls, reads some of it by read(2) and
// the rest by splice(2). end is how it ended for the backend: nil or
// ECONNRESET; full says that the writer waited when the backend turned. It is
// an error if a byte was out of order, or missing at an end.
func turn(p *pair, key uint64) (end error, full bool, err error) {
	defer p.backend.Close()
	defer p.agent.Close()
	chance := rand.New(rand.NewPCG(2, key))
	n := 1 + chance.Int64N(3<<20)
	if chance.IntN(4) == 0 {
		n = 1 + chance.Int64N(Credit) // and the end of the stream soon
	}
	sent := make(chan error, 1)
	go func() {
		err := keyed.Send(randomWrites{p.agent}, key, n, 40_000)
		if err == nil {
			err = p.agent.CloseWrite()
		}
		sent <- err
	}()
	defer func() {
		// The writer sees the same end as the reader.
		if sentErr := <-sent; sentErr != nil && end == nil {
			err = errors.Join(err, fmt.Errorf("send: %w", sentErr))
		}
	}()

	if chance.IntN(3) > 0 {
		for start := time.Now(); !p.agent.out.waiting.Load() && time.Since(start) < testTimeout; {
			time.Sleep(100 * time.Microsecond)
		}
	}
	got := keyed.NewChecker(key)
	if ordinary := chance.Int64N(2 * n); chance.IntN(3) > 0 {
		if _, err := io.CopyN(got, struct{ io.Reader }{p.backend}, min(n, ordinary)); err != nil {
			return nil, false, fmt.Errorf("after %d of %d bytes by read(2): %w", got.N, n, err)
		}
	}
	full = p.agent.out.waiting.Load()
	splices, err := newSplicing(p.backend)
	if err != nil {
		return nil, full, err
	}
	defer splices.Close()
	before := got.N
	_, end = io.Copy(struct{ io.Writer }{got}, splices)
	switch {
	case errors.Is(end, syscall.ECONNRESET):
		return end, full, nil
	case end != nil:
		return nil, full, fmt.Errorf("after %d bytes by read(2) and %d of %d by splice(2): %w", before, got.N-before, n, end)
	case got.N != n:
		return nil, full, fmt.Errorf("after %d bytes by read(2) and %d by splice(2) the stream ended, want %d", before, got.N-before, n)
	}
	return nil, full, nil
}

// The writer's wait ends with whatever ends a connection.
func TestWaitingWriterIsNotLeftBehind(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	write := func(p *pair) error {
		_, err := p.agent.Write(make([]byte, 4*Credit))
		return err
	}
	writeOn := func(p *pair) (err error) {
		for err == nil {
			err = write(p)
		}
		return err
	}
	closeWrite := func(p *pair) error {
		return errors.Join(sendPattern(p.agent, 0, 1000), p.agent.CloseWrite())
	}
	for _, tc := range []struct {
		name string
		wait func(*pair) error
		end  func(*pair) error
		want error // nil: none
	}{
		{"close", write, func(p *pair) error { return p.agent.Close() }, net.ErrClosed},
		{"reset by us", write, func(p *pair) error { p.agent.resetNow(); return nil }, ErrReaderBlind},
		{"write deadline", write, func(p *pair) error { return p.agent.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		{"deadline", write, func(p *pair) error { return p.agent.SetDeadline(time.Now().Add(20 * time.Millisecond)) }, os.ErrDeadlineExceeded},
		{"half-close", write, func(p *pair) error { go p.agent.CloseWrite(); return nil }, syscall.EPIPE},
		{"backend closes", writeOn, func(p *pair) error { return p.backend.Close() }, syscall.EPIPE},
		{"backend resets", writeOn, func(p *pair) error { return errors.Join(p.backend.SetLinger(0), p.backend.Close()) }, syscall.ECONNRESET},
		{"backend ends, then closes", writeOn, func(p *pair) error {
			return errors.Join(p.backend.CloseWrite(), p.backend.Close())
		}, syscall.EPIPE},
		{"splice is closed", write, func(p *pair) error {
			s.config.Stopped = 1
			err := s.configure()
			s.config.Stopped = 0
			_, readErr := io.CopyN(io.Discard, struct{ io.Reader }{p.backend}, 4*Credit)
			return errors.Join(err, readErr, s.configure())
		}, nil},
		{"backend reads", write, func(p *pair) error {
			_, err := io.CopyN(io.Discard, struct{ io.Reader }{p.backend}, 4*Credit)
			return err
		}, nil},

		{"half-close and close", closeWrite, func(p *pair) error { return p.agent.Close() }, net.ErrClosed},
		{"half-close and deadline", closeWrite, func(p *pair) error { return p.agent.SetWriteDeadline(time.Now()) }, os.ErrDeadlineExceeded},
		{"half-close and backend closes", closeWrite, func(p *pair) error { return p.backend.Close() }, nil},
		{"half-close and backend ends, then closes", closeWrite, func(p *pair) error {
			return errors.Join(p.backend.CloseWrite(), p.backend.Close())
		}, nil},
		{"half-close and backend ends, which is read, then closes", closeWrite, func(p *pair) error {
			return errors.Join(p.backend.CloseWrite(), keyed.Receive(p.agent, 0, 0), p.backend.Close())
		}, syscall.ECONNRESET},
		{"half-close and backend reads", closeWrite, func(p *pair) error { return readPattern(p.backend, 0, 1000) }, nil},
		{"half-close and backend ends first", closeWrite, func(p *pair) error {
			return errors.Join(p.backend.CloseWrite(), readPattern(p.backend, 0, 1000))
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := ends(t, s, l)
			warm(t, p)
			result := make(chan error, 1)
			go func() { result <- tc.wait(p) }()
			eventually(t, "the writer waits", p.agent.out.waiting.Load)
			if _, f := p.agent.look(); f == nil || unread(f) > Credit || f.Over != 0 {
				t.Errorf("flow is %+v", f)
			}
			if err := tc.end(p); err != nil {
				t.Error(err)
			}
			select {
			case err := <-result:
				if !errors.Is(err, tc.want) {
					t.Errorf("writer got %v, want %v", err, tc.want)
				}
			case <-time.After(testTimeout):
				t.Error("the writer still waits")
			}
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) != 0 {
		t.Errorf("%d writers are still known as waiting", len(s.waiting))
	}
}

// A write that does not ask is refused rather than let into TCP.
func TestWriteBeyondTheBoundIsRefused(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	p := ends(t, s, l)
	warm(t, p)
	var err error
	sent := 0
	for err == nil && sent < 4*Limit {
		var n int
		n, err = p.agent.tcp.Write(pattern(sent, 10_000))
		sent += n
	}
	if !errors.Is(err, syscall.EACCES) || sent > Limit {
		t.Errorf("after %d bytes: %v; want %v, and at most %d", sent, err, syscall.EACCES, Limit)
	}
	if err := readPattern(p.backend, 0, sent); err != nil {
		t.Error(err)
	}
}
