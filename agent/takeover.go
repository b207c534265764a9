// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent/handover"
)

// The uses of sockets that are handed over (handover.Socket).
const (
	useListener = "listener"
	useAdmin    = "admin"
	useMetrics  = "metrics"
)

// ask asks the agent at an admin socket for its sockets. It returns nil when
// nobody answers there.
func ask(path string) (*handover.Offer, error) {
	if err := socketPath(path); err != nil {
		return nil, err
	}
	dialed, err := net.DialTimeout("unix", path, 10*time.Second)
	if err != nil {
		return nil, nil // listenAdmin says why, if there is anything to say
	}
	conn := dialed.(*net.UnixConn)
	fail := func(err error) (*handover.Offer, error) {
		conn.Close()
		return nil, fmt.Errorf("take over from the agent at %s: %w; end it, or choose another path with -admin", path, err)
	}
	if err := ofThisUser(conn); err != nil {
		return fail(err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	r, err := http.NewRequest(http.MethodGet, "http://agent/handover", http.NoBody)
	if err != nil {
		return fail(err)
	}
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", handover.Protocol)
	if err := r.Write(conn); err != nil {
		return fail(err)
	}
	// Sockets come with bytes, and are lost when these are read without them: the
	// agent waits for the line "ready" before it sends any.
	answer, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return fail(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return fail(fmt.Errorf("it answers %s", answer.Status))
	}
	if _, err := conn.Write([]byte("ready\n")); err != nil {
		return fail(err)
	}
	offer, err := handover.Receive(conn)
	if err != nil {
		return fail(err)
	}
	return offer, nil
}

// ofThisUser refuses an agent of another user but root: where anybody may put a
// socket, as below /tmp, it would go on listening on what it hands over.
func ofThisUser(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(cerr, err); err != nil {
		return err
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("it is one of user %d", peer.Uid)
	}
	return nil
}

// inherit takes what fits of the sockets of the agent before this one.
func (a *Agent) inherit() error {
	var listeners []*net.TCPListener
	for {
		l, ok := a.before.Take(useListener).(*net.TCPListener)
		if !ok {
			break
		}
		listeners = append(listeners, l)
	}
	a.opts.Server.Inherit(listeners)
	if l, ok := a.before.Take(useAdmin).(*net.UnixListener); ok {
		a.admin = l
	}
	if l := a.before.Take(useMetrics); l != nil {
		if sameAddress(l.Addr(), a.opts.Metrics) {
			a.metrics = l
		} else {
			l.Close()
		}
	}
	if a.admin == nil {
		return errors.New("take over: the agent there has handed over no admin socket")
	}
	return nil
}

// sameAddress tells whether a socket is what listening on an address would give.
func sameAddress(have net.Addr, want string) bool {
	w, err := net.ResolveTCPAddr("tcp", want)
	if want == "" || err != nil {
		return false
	}
	h := have.(*net.TCPAddr).AddrPort()
	any := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	wa := w.AddrPort()
	return h.Port() == wa.Port() && (h.Addr().Unmap() == wa.Addr().Unmap() || any(h.Addr()) && any(wa.Addr()))
}

// takeOver takes over from the agent before this one, if there is one, as soon
// as a snapshot is served. It tells whether this agent is alone then: ctx may
// have ended before.
func (a *Agent) takeOver(ctx context.Context) (alone bool) {
	if a.before == nil {
		return true
	}
	select {
	case <-a.served:
	case <-ctx.Done():
		return false
	}
	log := a.opts.Log
	if err := a.before.Serving(); err != nil {
		log.Error("the agent before this one may still be there", "error", err)
	} else {
		log.Info("took over from the agent before this one")
	}
	a.admin.(*net.UnixListener).SetUnlinkOnClose(true)
	a.opts.Server.Disinherit()
	close(a.alone)
	a.mu.Lock()
	a.publish(a.current.Load().snapshot) // with what was in use until now
	a.mu.Unlock()
	return true
}

// Alone is closed when no other agent serves here: there was none, or this one
// has taken over from it.
func (a *Agent) Alone() <-chan struct{} { return a.alone }

func (a *Agent) isAlone() bool {
	select {
	case <-a.alone:
		return true
	default:
		return false
	}
}

// followRest tells what is left of the agent before this one, until nothing is
// or this one ends.
func (a *Agent) followRest(ctx context.Context) {
	stop := context.AfterFunc(ctx, a.before.Close)
	defer stop()
	told := handover.Rest{Connections: -1}
	a.before.Rest(func(r handover.Rest) {
		a.rest.Store(&r)
		switch {
		case r.Connections == 0 && told.Connections != 0:
			a.opts.Log.Info("the agent before this one has no connection left")
		case r.Connections > 0 && (told.Connections < 0 || !told.Until.Equal(r.Until)):
			a.opts.Log.Info("connections of the agent before this one", "connections", r.Connections, "at most until", until(r.Until))
		}
		told = r
	})
	a.before.Close()
}

func until(t time.Time) string {
	if t.IsZero() {
		return "its drain timeout after it is told to end"
	}
	return t.Format(time.RFC3339)
}

// serveHandover gives the sockets to a successor, which asks on the admin
// socket, and leaves when that serves.
func (a *Agent) serveHandover(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Upgrade") != handover.Protocol:
		http.Error(w, "Upgrade: "+handover.Protocol+" is what can be had here", http.StatusUpgradeRequired)
		return
	case !a.handing.TryLock():
		http.Error(w, "another agent takes over, or this one has ended", http.StatusConflict)
		return
	}
	defer a.handing.Unlock()
	hijacked, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	conn := hijacked.(*net.UnixConn)
	a.successor.Store(conn)
	if err := a.handOver(conn, buffered.Reader); err != nil {
		a.opts.Log.Warn("the successor did not take over, this agent goes on", "error", err)
		conn.Close()
		return
	}
	handover.Tell(conn, func() (r handover.Rest) {
		r.Connections, r.Until = a.opts.Server.Rest()
		return r
	})
}

func (a *Agent) handOver(conn *net.UnixConn, r *bufio.Reader) error {
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + handover.Protocol + "\r\n\r\n"))
	if err != nil {
		return err
	}
	if line, err := r.ReadString('\n'); err != nil || line != "ready\n" {
		return fmt.Errorf("wait for the successor, which says %q: %v", line, err)
	}
	sockets := []handover.Socket{{Use: useAdmin, Listener: a.admin}}
	if a.metrics != nil {
		sockets = append(sockets, handover.Socket{Use: useMetrics, Listener: a.metrics})
	}
	for _, l := range a.opts.Server.Listeners() {
		sockets = append(sockets, handover.Socket{Use: useListener, Listener: l})
	}
	return handover.Give(conn, sockets, a.leave)
}

// leave leaves everything to the successor but the connections that are there.
func (a *Agent) leave() {
	a.left.Store(true)
	a.opts.Server.Leave()
	if err := a.udp.Leave(); err != nil {
		a.opts.Log.Warn("UDP", "error", err)
	}
	a.admin.(*net.UnixListener).SetUnlinkOnClose(false)
	for _, l := range []net.Listener{a.admin, a.metrics} {
		if l != nil {
			_ = l.Close()
		}
	}
	for _, s := range a.servers { // who asks again asks the successor
		s.SetKeepAlivesEnabled(false)
	}
	connections, _ := a.opts.Server.Rest()
	a.opts.Log.Info("handed over to a successor; connections go on here", "connections", connections, "at most until", until(time.Time{}))
	if a.opts.HandedOver != nil {
		a.opts.HandedOver()
	}
}
