// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// pipe is what splice(2) moves bytes through, from socket to socket without a
// copy. It is empty unless it is some end's.
type pipe struct {
	r, w int
	n    int // bytes in it
}

// pipeSize is what one splice(2) takes at most.
const pipeSize = 1 << 20

// bulk is how many bytes must come at once for splice(2) to cost less than read
// and write: from a whole buffer on it is used, below this not any more.
const bulk = 16 << 10

// pipe returns an empty one, or nil if there can be none.
func (l *carrying) pipe() *pipe {
	if n := len(l.pipes); n > 0 {
		p := l.pipes[n-1]
		l.pipes = l.pipes[:n-1]
		return p
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize) // else it is smaller
	return &pipe{r: fds[0], w: fds[1]}
}

// keptPipes is how many empty pipes a loop keeps.
const keptPipes = 4

// putPipe takes a pipe back. One with bytes in it is closed.
func (l *carrying) putPipe(p *pipe) {
	if p.n > 0 || len(l.pipes) >= keptPipes {
		p.close()
		return
	}
	l.pipes = append(l.pipes, p)
}

func (p *pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

// fill moves what has come on a socket into a pipe that is empty. At the end of
// the stream, and before urgent data, it moves nothing.
func (e *end) fill(p *pipe) error {
	var n int64
	var err error
	cerr := e.watch.Socket.Control(func(fd uintptr) {
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			n, err = unix.Splice(int(fd), nil, p.w, nil, pipeSize, unix.SPLICE_F_NONBLOCK)
		}
	})
	switch {
	case cerr != nil:
		return cerr
	case errors.Is(err, unix.EAGAIN):
		return unix.EAGAIN
	case err != nil:
		return os.NewSyscallError("splice", err)
	}
	p.n = int(n)
	return nil
}

// drain moves what is in the end's pipe to its socket, as far as that takes it.
func (e *end) drain() error {
	var err error
	cerr := e.watch.Socket.Control(func(fd uintptr) {
		for e.through.n > 0 && (err == nil || errors.Is(err, unix.EINTR)) {
			var n int64
			if n, err = unix.Splice(e.through.r, nil, int(fd), nil, e.through.n, unix.SPLICE_F_NONBLOCK); err == nil {
				e.through.n -= int(n)
			}
		}
	})
	e.blocked = errors.Is(err, unix.EAGAIN)
	switch {
	case cerr != nil:
		return cerr
	case e.blocked:
		return nil
	case err != nil:
		return os.NewSyscallError("splice", err)
	}
	e.of.loop.Load().putPipe(e.through)
	e.through = nil
	return nil
}

// carryPlain gives one end what has come on the other, as it is. The caller
// flushes. EAGAIN means that nothing has come, io.EOF that nothing will.
func (c *Looped) carryPlain(from, to *end, count func(int)) error {
	l := c.loop.Load()
	if from.bulk {
		if p := l.pipe(); p != nil {
			err := from.fill(p)
			from.bulk = p.n >= bulk
			if p.n > 0 {
				count(p.n)
				to.through = p
				return nil
			}
			l.putPipe(p)
			if err != nil {
				return err
			}
			// The end of the stream, or urgent data, before which splice(2) stops
			// as well: read(2) tells.
		}
	}
	b := newBuffer()
	n, err := from.read(b.b[:bufferSize])
	if err != nil {
		b.put()
		return err
	}
	from.bulk = n == bufferSize
	count(n)
	to.put(b, b.b[:n])
	return nil
}
