// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/terminator/loop"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

// socketKey is where a socket listens. The zero Addr is every address of the
// node, IPv4 and IPv6.
type socketKey struct {
	addr netip.Addr
	port uint16
}

func (k socketKey) String() string {
	if !k.addr.IsValid() {
		return net.JoinHostPort("", itoa(k.port))
	}
	return netip.AddrPortFrom(k.addr, k.port).String()
}

// overlaps tells whether two sockets can only listen both by SO_REUSEPORT.
func (k socketKey) overlaps(o socketKey) bool {
	return k.port == o.port && k.addr.IsValid() != o.addr.IsValid()
}

// socket is one listening socket. Connections see the state that was stored
// when they were accepted.
type socket struct {
	key     socketKey
	free    bool             // may listen on an address that the node does not have
	ln      *net.TCPListener // nil while it cannot listen
	err     error
	started bool
	state   atomic.Pointer[port]
	done    chan struct{}
}

// listen opens the socket. Everything that accepted connections should have is
// set here, once, and inherited.
func (s *Server) listen(k *socket) {
	if ln := s.inherited[k.key]; ln != nil {
		delete(s.inherited, k.key)
		k.ln, k.err = ln, nil
		if s.phase == running {
			s.start(k)
		}
		return
	}
	shared := false
	for other := range s.sockets {
		shared = shared || (other.overlaps(k.key) && s.sockets[other].ln != nil)
	}
	control := func(network, address string, c syscall.RawConn) error { return nil }
	if k.free {
		control = freeBind
	}
	lc := net.ListenConfig{KeepAlive: -1, Control: func(network, address string, c syscall.RawConn) error {
		return errors.Join(control(network, address, c), legControl(network, address, c), reusePort(network, address, c))
	}}
	lc.SetMultipathTCP(false)
	var ln net.Listener
	if !shared {
		// Sockets of this process may share a port, one for all addresses and
		// one for a single address. A port of another process is an error,
		// which SO_REUSEPORT would hide from both.
		var probe net.Listener
		if probe, k.err = (&net.ListenConfig{Control: control}).Listen(context.Background(), "tcp", k.key.String()); k.err != nil {
			k.err = cured(k.err)
			return
		}
		_ = probe.Close()
	}
	if ln, k.err = lc.Listen(context.Background(), "tcp", k.key.String()); k.err == nil {
		k.ln = ln.(*net.TCPListener)
		if s.phase == running {
			s.start(k)
		}
	}
}

// cured adds what to do about an address that cannot be listened on.
func cured(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w; another process has the port: ss -ltnp names it", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; ports below 1024 need CAP_NET_BIND_SERVICE or root", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w; the node has no such address: correct spec.addresses or add it to a link", err)
	}
	return err
}

// reusePort lets several sockets of this process listen on one port.
func reusePort(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// freeBind lets a socket listen on an address that the node does not have.
// IP_FREEBIND holds for IPv6 sockets too (ip(7), inet_can_nonlocal_bind).
func freeBind(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// plain makes a backend leg that is never spliced: no keepalive yet (probe), no MPTCP
// (a sockmap cannot hold one), and a reset on close from before the first packet on.
func plain(ctx context.Context, from *net.TCPAddr, network, address string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, Control: legControl}
	d.SetMultipathTCP(false)
	if from != nil {
		d.LocalAddr = from
	}
	return d.DialContext(ctx, network, address)
}

// legControl is how each leg begins. Closing it is a reset until the streams ended
// in order, a byte that was sent with MSG_OOB keeps its place in the stream, where
// it would be missing otherwise, and one that is bound to an address only gets its port
// when it connects: bind(2) would want one that no other socket has, to whatever peer.
func legControl(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
	}); cerr != nil {
		return cerr
	}
	return err
}

// listenAgain tries the sockets that could not listen. s.mu is held.
func (s *Server) listenAgain() {
	for _, k := range s.sockets {
		if k.ln != nil {
			continue
		}
		if s.listen(k); k.err == nil {
			s.Log.Info("listening at last", "address", k.key.String())
		}
	}
}

func (k *socket) close() {
	close(k.done)
	if k.ln != nil {
		_ = k.ln.Close()
	}
}

// start begins to accept. s.mu is held.
func (s *Server) start(k *socket) {
	if k.ln != nil && !k.started {
		k.started = true
		s.accepts.Go(func() { s.accept(k) })
	}
}

// Bounds of the pause after an accept that failed.
const (
	minPause = 5 * time.Millisecond
	maxPause = 100 * time.Millisecond
)

// accept takes connections until the socket closes. While the process has no
// descriptor left it refuses a few a second and sleeps in between.
func (s *Server) accept(k *socket) {
	var pause time.Duration
	var warned time.Time
	for {
		tcp, err := k.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.Metrics.acceptErrors.Inc()
			if time.Since(warned) > 10*time.Second {
				warned = time.Now()
				s.Log.Warn("accept", "address", k.key.String(), "error", err)
			}
			if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
				s.reserve.refuse(k.ln)
			}
			pause = min(max(2*pause, minPause), maxPause)
			select {
			case <-k.done:
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		if len(s.slots) == cap(s.slots) {
			s.conns.evict()
		}
		if !s.slot(k) {
			relay.Abort(tcp)
			continue
		}
		go s.serve(s.open(k, tcp))
	}
}

// slot waits for room for a connection. There is none for one that would have to
// wait when the socket is closed.
func (s *Server) slot(k *socket) bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
	}
	select {
	case s.slots <- struct{}{}:
		return true
	case <-k.done:
		return false
	}
}

// full tells whether a new connection finds no memory. The log has it every ten seconds.
func (s *Server) full() bool {
	if s.Full == nil {
		return false
	}
	err := s.Full()
	if err == nil {
		return false
	}
	if now, said := time.Now().Unix(), s.fullSaid.Load(); now-said >= 10 && s.fullSaid.CompareAndSwap(said, now) {
		s.Log.Warn("no memory for new connections, they are reset", "error", err)
	}
	return true
}

// refuse gives up the reserve for a moment to reset the connection that has
// waited longest: better than to let it wait for nothing.
func (r *reserve) refuse(ln *net.TCPListener) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.close()
	_ = ln.SetDeadline(time.Now().Add(time.Millisecond))
	if c, err := ln.AcceptTCP(); err == nil {
		relay.Abort(c)
	}
	_ = ln.SetDeadline(time.Time{})
	r.open()
}

// descriptorReserve is what is kept of the process's descriptors for other
// things than connections: listeners, files, metrics, BPF, and for each processor the
// three of an event loop.
func descriptorReserve() uint64 { return 128 + 3*uint64(loop.Processors()) }

// connectionBudget is how many connections, of two descriptors each, the
// process can have at a time.
func connectionBudget() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	n := min(l.Cur, 4<<20)
	return int(max(n-min(n/2, descriptorReserve()), 2) / 2)
}
