// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// way is a way to read a socket.
type way struct {
	name string
	// open returns a reader of the socket, which is blocking.
	open func(t testing.TB, fd int) (reading, error)
	// tcp: who reads so from the start is never redirected to.
	tcp bool
	// fails is how its backend may fail, once something is redirected to it.
	fails error
}

// reading reads like read(2): 0 and nil are the end of the stream.
type reading interface {
	read(p []byte) (int, error)
	close() error
}

// since is when a backend begins to read in its way.
type since struct {
	name string
	// earned: after it has earned the splice by read(2); unread: and while
	// redirected bytes wait for it.
	earned, unread bool
	policy         Policy
}

var sinces = []since{
	{"without splice", false, false, Off}, // TCP alone does as the test expects
	{"from the start", false, false, On},  // On: what was learned before does not count
	{"once earned", true, false, On},
	{"with bytes unread", true, true, On},
}

// dialog is what a test connection says: rounds of a message and an answer,
// and then a stream each way.
type dialog struct {
	key      uint64
	messages []int // bytes
	answers  []int
	bulk     int64
	// interrupted counts reads of a blocking socket that returned EAGAIN.
	interrupted int
}

// patiently reads again when a blocking socket said EAGAIN: see note_reader.
func (d *dialog) patiently(r reading, p []byte) (int, error) {
	for {
		n, err := r.read(p)
		if !errors.Is(err, unix.EAGAIN) {
			return max(n, 0), err
		}
		d.interrupted++
	}
}

func newDialogue(key uint64) *dialog {
	chance := rand.New(rand.NewPCG(3, key))
	d := &dialog{key: key, bulk: 1 + chance.Int64N(long[int64](300_000, 3<<20))}
	for range long(20, 60) {
		d.messages = append(d.messages, 1+chance.IntN(3000))
		d.answers = append(d.answers, 1+chance.IntN(3000))
	}
	return d
}

// agent speaks the dialog as the agent.
func (d *dialog) agent(c *Conn) error {
	chance := rand.New(rand.NewPCG(4, d.key))
	out, in := keyed.New(2*d.key), keyed.NewChecker(2*d.key+1)
	for i, n := range d.messages {
		for n > 0 {
			m := n
			if chance.IntN(2) == 0 {
				m = 1 + chance.IntN(n)
			}
			if _, err := io.CopyN(c, out, int64(m)); err != nil {
				return fmt.Errorf("message %d: %w", i, err)
			}
			if n -= m; n > 0 && chance.IntN(2) == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
		if _, err := io.CopyN(in, struct{ io.Reader }{c}, int64(d.answers[i])); err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(randomWrites{c}, out, d.bulk)
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	_, err := io.Copy(in, struct{ io.Reader }{c})
	if err == nil {
		if all := d.answered() + d.bulk; in.N != all {
			err = fmt.Errorf("stream ended after %d of %d bytes", in.N, all)
		}
	}
	return errors.Join(err, <-sent)
}

func (d *dialog) answered() (n int64) {
	for _, a := range d.answers {
		n += int64(a)
	}
	return n
}

func (d *dialog) asked() (n int64) {
	for _, m := range d.messages {
		n += int64(m)
	}
	return n
}

// backend speaks it as the backend.
func (d *dialog) backend(fd int, r reading) error {
	in, out := keyed.NewChecker(2*d.key), keyed.New(2*d.key+1)
	w := fdWriter(fd)
	for i, n := range d.messages {
		p := make([]byte, n)
		for n > 0 {
			m, err := d.patiently(r, p[:n])
			if err == nil && m == 0 {
				err = io.ErrUnexpectedEOF
			}
			if err == nil {
				_, err = in.Write(p[:m])
			}
			if err != nil {
				return fmt.Errorf("message %d, after %d bytes: %w", i, in.N, err)
			}
			n -= m
		}
		if _, err := io.CopyN(w, out, int64(d.answers[i])); err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(randomWrites{w}, out, d.bulk)
		if err == nil {
			err = unix.Shutdown(fd, unix.SHUT_WR)
		}
		sent <- err
	}()
	p := make([]byte, 64<<10)
	var err error
	for err == nil {
		var m int
		if m, err = d.patiently(r, p); m == 0 || err != nil {
			break
		}
		_, err = in.Write(p[:m])
	}
	if all := d.asked() + d.bulk; err == nil && in.N != all {
		err = fmt.Errorf("stream ended after %d of %d bytes", in.N, all)
	} else if err != nil {
		err = fmt.Errorf("after %d bytes: %w", in.N, err)
	}
	if err != nil {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
	return errors.Join(err, <-sent)
}

type fdWriter int

func (fd fdWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(int(fd), p[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, -1)
			if err != nil && err != unix.EINTR {
				return n, err
			}
			continue
		case err != nil:
			return n, err
		}
		n += m
	}
	return n, nil
}

// held is how a dialog ended.
type held struct {
	agent, backend error
	splicedOut     uint64
	interrupted    int
}

// hold speaks a dialog over a new connection whose backend reads in a way.
func hold(t testing.TB, s *Splicer, l *net.TCPListener, w way, when since, d *dialog) (end held) {
	p := ends(t, s, l)
	defer p.agent.Close()
	if when.earned {
		if err := p.warm(); err != nil {
			return held{backend: err}
		}
	}
	ended := make(chan error, 1)
	before := p.agent.Counters().SplicedOut
	go func() { ended <- d.agent(p.agent) }()
	if when.unread {
		eventually(t, "a byte is redirected", func() bool { return p.agent.Counters().SplicedOut > before })
	}
	f, err := p.backend.File()
	if err == nil {
		err = errors.Join(p.backend.Close(), unix.SetNonblock(int(f.Fd()), false))
	}
	if err != nil {
		return held{backend: err}
	}
	spoken := make(chan error, 1)
	go func() {
		defer f.Close()
		r, err := w.open(t, int(f.Fd()))
		if err == nil {
			err = d.backend(int(f.Fd()), r)
			err = errors.Join(err, r.close())
		}
		spoken <- err
	}()
	select {
	case end.backend = <-spoken:
	case <-time.After(testTimeout):
		_ = p.agent.SetLinger(0)
		p.agent.Close()
		end.backend = errors.Join(errors.New("it hangs"), <-spoken)
	}
	end.agent = <-ended
	end.splicedOut = p.agent.Counters().SplicedOut - before
	end.interrupted = d.interrupted
	return end
}

// Whatever way a backend reads in, from the start or later on, it gets every byte
// in order, or its connection ends. SLUICE_LONG=1 for 50 connections each.
func TestEveryWayToRead(t *testing.T) {
	s := splicer(t)
	for _, when := range sinces {
		t.Run(when.name, func(t *testing.T) {
			count := &figures.Figures{}
			figures.Record(t, count)
			var ended, interrupted int64
			for _, w := range ways {
				t.Run(w.name, func(t *testing.T) {
					t.Parallel()
					l := listen(t, "tcp", "127.0.0.1:0")
					know(t, s, addrOf(l), when.policy)
					for i := range long(1, 50) {
						d := newDialogue(uint64(i))
						end := hold(t, s, l, w, when, d)
						atomic.AddInt64(&interrupted, int64(end.interrupted))
						atomic.AddInt64(&count.Connections, 1)
						failed := w.fails != nil && errors.Is(end.backend, w.fails) && end.agent != nil && when.policy != Off
						switch {
						case end.agent == nil && end.backend == nil:
							atomic.AddInt64(&count.Bytes, d.asked()+d.answered()+2*d.bulk)
						case failed:
							atomic.AddInt64(&ended, 1)
						default:
							atomic.AddInt64(&count.Failures, 1)
							t.Errorf("connection %d: agent: %v; backend: %v", i, end.agent, end.backend)
						}
						if !when.earned && !failed && (w.tcp || when.policy == Off) != (end.splicedOut == 0) {
							t.Errorf("connection %d: %d bytes were redirected to the backend", i, end.splicedOut)
						}
					}
				})
			}
			t.Cleanup(func() { // when all have ended, and before it is recorded
				count.What = fmt.Sprintf("%d ways; %d connections ended with an error; EAGAIN from a blocking socket: %d", len(ways), ended, interrupted)
				t.Log(count.What)
			})
		})
	}
}

// A blocking read of a member of a sockmap returns EAGAIN for a signal. So an
// endpoint whose backend blocks is TCP from the second connection on.
func TestBackendThatBlocksIsRemembered(t *testing.T) {
	s := splicer(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)
	w := way{open: signaled}
	before := outcome(t, s, "reader_blocks")
	for i := range 3 {
		end := hold(t, s, l, w, since{}, newDialogue(uint64(i)))
		if end.agent != nil || end.backend != nil {
			t.Errorf("connection %d: agent: %v; backend: %v", i, end.agent, end.backend)
		}
		if i > 0 && end.interrupted != 0 {
			t.Errorf("connection %d: %d reads were interrupted", i, end.interrupted)
		}
	}
	if n := outcome(t, s, "reader_blocks") - before; n != 2 {
		t.Errorf("%d connections counted as reader_blocks, want 2", n)
	}
}
