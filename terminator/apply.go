// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"errors"

	"github.com/sluice-gateway/sluice/agent/config"
)

// Apply makes a snapshot the one that new connections see, and reports what
// came of each listener. Connections that exist go on as they are. A listener
// that cannot be served does not disturb the others; one whose address cannot
// be bound is tried again every second (see Report). The snapshot must be
// sorted and valid, else nothing changes and every listener says why; it must
// not be changed afterwards.
//
// It is safe for concurrent use. After Run has begun to drain nothing listens
// any more.
func (s *Server) Apply(snap *config.Snapshot) config.Report {
	s.init()
	if err := snap.Validate(); err != nil {
		r := config.Report{Hash: snap.Hash(), Listeners: map[string]string{}}
		for _, l := range snap.Listeners {
			r.Listeners[l.Name] = "snapshot is invalid, what was served before stays: " + err.Error()
		}
		return r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.compile(snap, s.snapshot.Load())
	s.snapshot.Store(st)
	s.trusts = st.trusts
	for name, l := range s.limits {
		if st.listeners[name] == nil && l.active.Load() == 0 {
			delete(s.limits, name)
			s.Metrics.forget(name)
		}
	}
	s.Metrics.retain(st)
	s.bind(st)
	return s.report()
}

// bind makes the sockets those of a state: new ones open before old ones close.
// s.mu is held.
func (s *Server) bind(st *state) {
	if s.phase == stopped {
		return
	}
	for key, p := range st.ports {
		free := key.addr.IsValid() && (s.FreeBind || st.comes[key.addr])
		k := s.sockets[key]
		if k == nil {
			k = &socket{key: key, free: free, done: make(chan struct{})}
			k.state.Store(p)
			s.listen(k)
			s.sockets[key] = k
			if k.err != nil {
				s.Log.Error("listen", "address", key.String(), "error", k.err)
			}
			continue
		}
		k.free = free
		k.state.Store(p)
	}
	for key, k := range s.sockets {
		if st.ports[key] == nil {
			k.close()
			delete(s.sockets, key)
		}
	}
	s.listenAgain()
}

// report says how the listeners of the present state fare. s.mu is held.
func (s *Server) report() config.Report {
	st := s.snapshot.Load()
	r := config.Report{Hash: st.hash, Listeners: make(map[string]string, len(st.listeners))}
	for name, l := range st.listeners {
		errs := []error{l.err, l.partial}
		for _, key := range l.sockets {
			if k := s.sockets[key]; k != nil {
				errs = append(errs, k.err)
			} else {
				errs = append(errs, errStopped)
			}
		}
		r.Listeners[name] = ""
		if err := errors.Join(errs...); err != nil {
			r.Listeners[name] = err.Error()
		}
	}
	return r
}

var errStopped = errors.New("the terminator has stopped")
