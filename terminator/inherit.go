// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"net"
	"net/netip"
	"time"
)

// Inherit gives the server listening sockets of the process before it. They are
// used for the listeners that need them, instead of new ones; Disinherit closes
// the others. To be called before the first Apply.
func (s *Server) Inherit(listeners []*net.TCPListener) {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inherited = make(map[socketKey]*net.TCPListener, len(listeners))
	for _, l := range listeners {
		at := l.Addr().(*net.TCPAddr).AddrPort()
		key := socketKey{at.Addr().Unmap(), at.Port()}
		if key.addr.IsUnspecified() {
			key.addr = netip.Addr{}
		}
		s.inherited[key] = l
	}
}

// Disinherit closes the inherited sockets that no listener needs, and tries at
// once to listen where the process before this one was in the way.
func (s *Server) Disinherit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.inherited {
		_ = l.Close()
	}
	s.inherited = nil
	if s.phase != stopped {
		s.listenAgain()
	}
}

// Listeners are the sockets that the server listens on, for its successor.
func (s *Server) Listeners() []*net.TCPListener {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*net.TCPListener
	for _, k := range s.sockets {
		if k.ln != nil {
			out = append(out, k.ln)
		}
	}
	return out
}

// Leave stops to accept connections. Those that are there go on, and HTTP
// clients are told to make new ones; Run drains as ever. What waits in the
// queues is left to a successor that has the sockets too; without one it is
// reset.
func (s *Server) Leave() {
	s.init()
	s.mu.Lock()
	if s.phase != stopped {
		close(s.left)
	}
	s.phase = stopped
	for key, k := range s.sockets {
		k.close()
		delete(s.sockets, key)
	}
	s.mu.Unlock()
	s.accepts.Wait()
	s.httpd.SetKeepAlivesEnabled(false)
}

// Rest is what is left of a server that accepts no more: its open connections,
// and until when they may go on, zero before Run's context has ended.
func (s *Server) Rest() (connections int, until time.Time) {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns.count(), s.until
}
