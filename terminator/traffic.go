// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/sluice-gateway/sluice/terminator/balance"
)

// flowKey is from where to where a connection goes. What it never got to is empty.
type flowKey struct{ listener, route, backend, endpoint string }

func (i *Connection) flowKey() flowKey { return flowKey{i.Listener, i.Route, i.Backend, i.Endpoint} }

// flow counts the connections of a way that ended, and all of their bytes.
type flow struct {
	ended uint64
	bytes map[string]Bytes
}

// Bytes are payload: Up is from the client.
type Bytes struct {
	Up   int64 `json:"up"`
	Down int64 `json:"down"`
}

// Flow is what went one way through the server. Parts of the way to which
// connections never got are empty.
type Flow struct {
	Listener string `json:"listener,omitempty"`
	Route    string `json:"route,omitempty"`
	Backend  string `json:"backend,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	// Failed says that the endpoint could not be connected to of late.
	Failed bool `json:"failed,omitempty"`
	// Open are the open connections, Connections all that ended or have an
	// endpoint. With HTTP, one that carries requests to several endpoints counts
	// at the last one.
	Open        int    `json:"open"`
	Connections uint64 `json:"connections"`
	// Bytes are those by the path that their connections had (Connection.Path).
	Bytes map[string]Bytes `json:"bytes,omitempty"`
}

// flowOf returns the flow of a connection. mu is held.
func (m *Metrics) flowOf(i *Connection) *flow {
	f := m.flows[i.flowKey()]
	if f == nil {
		f = &flow{bytes: map[string]Bytes{}}
		m.flows[i.flowKey()] = f
	}
	return f
}

// retainFlows drops the flows that a state has no place for. mu is held.
func (m *Metrics) retainFlows(st *state) {
	known := map[flowKey]bool{}
	for name, b := range st.backends {
		for _, e := range b.Endpoints() {
			known[flowKey{backend: name, endpoint: e.Address}] = true
		}
	}
	maps.DeleteFunc(m.flows, func(w flowKey, _ *flow) bool {
		return w.listener != "" && st.listeners[w.listener] == nil ||
			w.endpoint != "" && !known[flowKey{backend: w.backend, endpoint: w.endpoint}]
	})
}

// Traffic tells what went which way since the start, in order of names: ways that
// had a connection, and of those that are there to be taken as many as limit
// allows. Of what is no longer served it forgets.
func (s *Server) Traffic(limit int) []Flow {
	s.init()
	open := map[flowKey]int{}
	for _, c := range s.conns.all() {
		i := c.snapshot()
		s.Metrics.count(c, &i)
		if i.Endpoint != "" {
			open[i.flowKey()]++
		}
	}
	out := map[flowKey]*Flow{}
	at := func(w flowKey) *Flow {
		if out[w] == nil {
			out[w] = &Flow{Listener: w.listener, Route: w.route, Backend: w.backend, Endpoint: w.endpoint}
		}
		return out[w]
	}
	s.Metrics.mu.Lock()
	for w, f := range s.Metrics.flows {
		of := at(w)
		of.Connections, of.Bytes = f.ended, maps.Clone(f.bytes)
	}
	s.Metrics.mu.Unlock()
	for w, n := range open {
		of := at(w)
		of.Open, of.Connections = n, of.Connections+uint64(n)
	}
	st, now := s.snapshot.Load(), time.Now()
	for _, name := range slices.Sorted(maps.Keys(st.listeners)) {
		st.listeners[name].ways(st, func(w flowKey, e *balance.Endpoint) {
			if out[w] != nil || len(out) < limit {
				at(w).Failed = e != nil && !e.Well(now)
			}
		})
	}
	return slices.SortedFunc(func(yield func(Flow) bool) {
		for _, f := range out {
			if !yield(*f) {
				return
			}
		}
	}, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(a.Listener, b.Listener), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Endpoint, b.Endpoint))
	})
}

// ways tells each way that connections of a listener may take, some of them more
// than once. What leads nowhere has no endpoint.
func (l *listener) ways(st *state, tell func(flowKey, *balance.Endpoint)) {
	to := func(route string, b *balance.Backend) {
		w := flowKey{listener: l.config.Name, route: route}
		if b != nil {
			w.backend = b.Name
			for _, e := range b.Endpoints() {
				tell(flowKey{w.listener, route, b.Name, e.Address}, e)
			}
		}
		if b == nil || len(b.Endpoints()) == 0 {
			tell(w, nil)
		}
	}
	for _, r := range l.l4.all() {
		if r == nil {
			continue
		}
		if len(r.refs) == 0 {
			to(r.name, nil)
		}
		for _, ref := range r.refs {
			to(r.name, ref.Backend)
		}
	}
	for _, h := range l.config.HTTP {
		for _, rule := range h.Rules {
			for _, ref := range rule.Backends {
				to(rule.Route, st.backends[ref.Backend])
			}
		}
	}
}
