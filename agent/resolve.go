// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

const (
	// resolveTimeout bounds one lookup, and what a slow name server can hold up: the
	// snapshot is applied without the names that have no answer by then.
	resolveTimeout = 2 * time.Second
	// resolveEvery is how often names are asked for again. Go's resolver does
	// not tell the TTL; this is the usual one of cloud load balancers.
	resolveEvery = 30 * time.Second
	// resolveRetry is how soon a name without any answer is asked for again.
	resolveRetry = 5 * time.Second
)

// resolver turns the domain names of endpoints into addresses. A name keeps
// its last answer until there is a new one.
type resolver struct {
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	log    *slog.Logger
	// tenants is Options.Tenants.
	tenants bool

	mu       sync.Mutex
	answers  map[string][]netip.Addr // nil: asked, no answer yet
	failures map[string]error        // of the last time, by name
}

func newResolver(log *slog.Logger) *resolver {
	lookup := func(ctx context.Context, host string) ([]netip.Addr, error) {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	}
	return &resolver{lookup: lookup, log: log, answers: map[string][]netip.Addr{}, failures: map[string]error{}}
}

// learn asks for the names in s that are new, and forgets the names that s does
// not have. Those that had no answer are asked for again by refresh: a name that
// is never answered must not hold up every change of others.
func (r *resolver) learn(ctx context.Context, s *config.Snapshot) {
	names := domainNames(s)
	r.mu.Lock()
	for name := range r.answers {
		if !slices.Contains(names, name) {
			delete(r.answers, name)
			delete(r.failures, name)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		_, asked := r.answers[n]
		return asked
	})
	for _, n := range names {
		r.answers[n] = nil
	}
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	r.ask(ctx, names)
}

// refresh asks for every name again and tells whether an answer changed.
func (r *resolver) refresh(ctx context.Context) (changed bool) {
	r.mu.Lock()
	names := slices.Collect(maps.Keys(r.answers))
	r.mu.Unlock()
	return r.ask(ctx, names)
}

// ask looks names up, some at a time, each for as long as resolveTimeout: a name that
// nobody answers for takes no time of others.
func (r *resolver) ask(ctx context.Context, names []string) (changed bool) {
	var wg sync.WaitGroup
	var any atomic.Bool
	slots := make(chan struct{}, 32) // lookups at a time
	for _, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
			defer cancel()
			addrs, err := r.lookup(ctx, name)
			if r.keep(name, addrs, err) {
				any.Store(true)
			}
		})
	}
	wg.Wait()
	return any.Load()
}

// keep remembers an answer and tells whether it differs from the last one.
func (r *resolver) keep(name string, addrs []netip.Addr, err error) (changed bool) {
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	if r.tenants && slices.ContainsFunc(addrs, special) {
		addrs, err = nil, errors.New("it leads to this machine or its link, where no EndpointSlice may lead")
	}
	if err == nil && len(addrs) == 0 {
		err = errors.New("no address")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	last, wanted := r.answers[name]
	switch {
	case !wanted: // forgotten while the question was out
		return false
	case err != nil:
		if r.failures[name] == nil {
			r.log.Warn("endpoint does not resolve; its last addresses stay", "name", name, "error", err, "addresses", last)
		}
		r.failures[name] = err
		return false
	}
	delete(r.failures, name)
	r.answers[name] = addrs
	return !slices.Equal(last, addrs)
}

// special tells whether an address may be in no EndpointSlice (ValidateEndpointIP of
// Kubernetes).
func special(a netip.Addr) bool {
	return a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast()
}

// pending tells whether a name has no answer at all.
func (r *resolver) pending() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addrs := range r.answers {
		if addrs == nil {
			return true
		}
	}
	return false
}

// unresolved returns the names whose last lookup failed, with the cause.
func (r *resolver) unresolved() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]string{}
	for name, err := range r.failures {
		out[name] = err.Error()
	}
	return out
}

// apply returns s with addresses in the place of names. Names without an
// answer give no endpoint. s itself stays as it is.
func (r *resolver) apply(s *config.Snapshot) *config.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) == 0 {
		return s
	}
	resolved := *s
	resolved.Backends = slices.Clone(s.Backends)
	for i := range resolved.Backends {
		b := &resolved.Backends[i]
		var endpoints []config.Endpoint
		for _, e := range b.Endpoints {
			addrs, isName := r.answers[e.Host]
			if !isName {
				endpoints = append(endpoints, e)
			}
			for _, a := range addrs {
				endpoints = append(endpoints, config.Endpoint{Host: a.String(), Port: e.Port})
			}
		}
		slices.SortFunc(endpoints, func(a, b config.Endpoint) int {
			return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
		})
		b.Endpoints = slices.Compact(endpoints)
	}
	return &resolved
}

// domainNames returns the endpoint hosts of s that are not addresses.
func domainNames(s *config.Snapshot) []string {
	var names []string
	for _, b := range s.Backends {
		for _, e := range b.Endpoints {
			if _, err := netip.ParseAddr(e.Host); err != nil {
				names = append(names, e.Host)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
