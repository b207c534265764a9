// SPDX-License-Identifier: Apache-2.0

// Package balance chooses where a connection goes: a backend by weight, then
// the less loaded of two random endpoints of it.
package balance

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// penalty is for how long an endpoint that could not be connected to is tried
// after all others.
const penalty = 10 * time.Second

// Endpoint is one address of a backend. Its state outlives snapshots.
type Endpoint struct {
	// Address is "host:port".
	Address string

	active  atomic.Int64 // connections and attempts
	retryAt atomic.Int64 // Unix nanoseconds, 0 when it is well
}

// Release ends the use that [Backend.Pick] began.
func (e *Endpoint) Release() { e.active.Add(-1) }

// Failed makes the endpoint the last choice for a while.
func (e *Endpoint) Failed(now time.Time) { e.retryAt.Store(now.Add(penalty).UnixNano()) }

// Well tells whether the endpoint has not failed of late.
func (e *Endpoint) Well(now time.Time) bool { return e.retryAt.Load() <= now.UnixNano() }

// Works takes back what Failed said.
func (e *Endpoint) Works() {
	if e.retryAt.Load() != 0 {
		e.retryAt.Store(0)
	}
}

// Active returns how many connections the endpoint has.
func (e *Endpoint) Active() int64 { return e.active.Load() }

// Backend is a set of endpoints.
type Backend struct {
	Name      string
	endpoints atomic.Pointer[[]*Endpoint]
	// gone are endpoints that left with connections. One that comes back, after
	// a failed readiness probe for instance, still has them. Set.mu guards it.
	gone map[string]*Endpoint
}

// Endpoints returns the present endpoints. The caller must not change them.
func (b *Backend) Endpoints() []*Endpoint { return *b.endpoints.Load() }

// Pick chooses an endpoint that is not in tried: of two random ones the one
// with fewer connections. Endpoints that failed of late come last, the one that
// failed longest ago first. It returns nil when none is left. The caller
// releases the endpoint.
func (b *Backend) Pick(now time.Time, tried []*Endpoint) *Endpoint {
	all := b.Endpoints()
	var best *Endpoint
	well := 0
	for _, e := range all {
		if e.Well(now) && !slices.Contains(tried, e) {
			well++
		}
	}
	switch well {
	case 0:
		best = leastRecentlyFailed(all, tried)
	case len(all):
		i, j := two(well)
		best = less(all[i], all[j])
	default:
		i, j := two(well)
		var first, second *Endpoint
		n := 0
		for _, e := range all {
			if !e.Well(now) || slices.Contains(tried, e) {
				continue
			}
			if n == i {
				first = e
			}
			if n == j {
				second = e
			}
			n++
		}
		if best = less(first, second); best == nil { // both failed just now
			best = leastRecentlyFailed(all, tried)
		}
	}
	if best != nil {
		best.active.Add(1)
	}
	return best
}

// two returns two of n indexes, different ones when there are.
func two(n int) (i, j int) {
	i = rand.IntN(n)
	if j = i; n > 1 {
		j = (i + 1 + rand.IntN(n-1)) % n
	}
	return i, j
}

// less returns the endpoint with fewer connections. Either may be nil, when it
// failed between two looks at it.
func less(a, b *Endpoint) *Endpoint {
	switch {
	case a == nil:
		return b
	case b == nil || a.Active() <= b.Active():
		return a
	}
	return b
}

func leastRecentlyFailed(all, tried []*Endpoint) *Endpoint {
	var best *Endpoint
	for _, e := range all {
		if !slices.Contains(tried, e) && (best == nil || e.retryAt.Load() < best.retryAt.Load()) {
			best = e
		}
	}
	return best
}

// Set is every backend of a node. The zero value is empty and usable.
type Set struct {
	mu       sync.Mutex
	backends map[string]*Backend
}

// Update makes the set hold exactly these backends with these endpoint
// addresses. Endpoints that stay keep their counts. It returns the backends by
// name, for the caller to keep, and the names of those that lost an endpoint.
func (s *Set) Update(want map[string][]string) (backends map[string]*Backend, shrunk []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make(map[string]*Backend, len(want))
	for name, addresses := range want {
		b := s.backends[name]
		if b == nil {
			b = &Backend{Name: name}
			b.endpoints.Store(new([]*Endpoint))
		}
		if b.update(addresses) {
			shrunk = append(shrunk, name)
		}
		next[name] = b
	}
	for name := range s.backends {
		if next[name] == nil {
			shrunk = append(shrunk, name)
		}
	}
	s.backends = next
	return next, shrunk
}

func (b *Backend) update(addresses []string) (shrunk bool) {
	have := make(map[string]*Endpoint)
	for _, e := range b.Endpoints() {
		have[e.Address] = e
	}
	list := make([]*Endpoint, 0, len(addresses))
	for _, a := range addresses {
		e := cmp.Or(have[a], b.gone[a])
		if e == nil {
			e = &Endpoint{Address: a}
		}
		list = append(list, e)
		delete(have, a)
		delete(b.gone, a)
	}
	b.endpoints.Store(&list)
	shrunk = len(have) > 0
	maps.Copy(have, b.gone)
	maps.DeleteFunc(have, func(_ string, e *Endpoint) bool { return e.Active() == 0 })
	b.gone = have
	return shrunk
}

// Ref is one share of a route. Backend is nil for a reference that does not
// resolve.
type Ref struct {
	Backend *Backend
	Weight  int
}

// Choose returns the backend that gets a connection, by weight, and nil when
// the connection must be refused: the share has no backend, or no weight is
// left.
func Choose(refs []Ref) *Backend {
	sum := 0
	for _, r := range refs {
		sum += r.Weight
	}
	if sum == 0 {
		return nil
	}
	n := rand.IntN(sum)
	for _, r := range refs {
		if n -= r.Weight; n < 0 {
			return r.Backend
		}
	}
	return nil
}
