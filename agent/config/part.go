// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Gateway is the "namespace/name" of the Gateway that the listener belongs to.
func (l *Listener) Gateway() string {
	parts := strings.SplitN(l.Name, "/", 3)
	return strings.Join(parts[:min(2, len(parts))], "/")
}

// Parts takes the snapshot apart: for each Gateway with a listener, by
// "namespace/name", its listeners and all that they refer to. Each part is
// sorted and valid when s is. Parts share memory with s.
func (s *Snapshot) Parts() map[string]*Snapshot { return s.split((*Listener).Gateway) }

// ByTransport takes the snapshot apart into what is served over TCP and what
// is served over UDP, as Parts does.
func (s *Snapshot) ByTransport() (tcp, udp *Snapshot) {
	parts := s.split(func(l *Listener) string {
		if l.Protocol == UDP {
			return "udp"
		}
		return "tcp"
	})
	if tcp, udp = parts["tcp"], parts["udp"]; tcp == nil {
		tcp = &Snapshot{}
	}
	if udp == nil {
		udp = &Snapshot{}
	}
	return tcp, udp
}

// split is Parts by any property of listeners.
func (s *Snapshot) split(by func(*Listener) string) map[string]*Snapshot {
	routes := byName(s.Routes, func(r *Route) string { return r.Name })
	backends := byName(s.Backends, func(b *Backend) string { return b.Name })
	certificates := byName(s.Certificates, func(c *Certificate) string { return c.Name })
	authorities := byName(s.Authorities, func(a *Authority) string { return a.Name })
	listeners := map[string][]Listener{}
	for i := range s.Listeners {
		k := by(&s.Listeners[i])
		listeners[k] = append(listeners[k], s.Listeners[i])
	}
	held := make(map[netip.Addr]bool, len(s.Addresses))
	for _, a := range s.Addresses {
		held[a] = true
	}
	parts := make(map[string]*Snapshot, len(listeners))
	for k, of := range listeners {
		used := uses(of, routes, backends)
		p := &Snapshot{Listeners: of, Routes: pick(routes, used.routes), Backends: pick(backends, used.backends),
			Certificates: pick(certificates, used.certificates), Authorities: pick(authorities, used.authorities), Addresses: among(of, held)}
		p.Sort()
		parts[k] = p
	}
	return parts
}

// among returns the addresses of listeners that are in a set, sorted.
func among(listeners []Listener, set map[netip.Addr]bool) []netip.Addr {
	var out []netip.Addr
	for i := range listeners {
		for _, a := range listeners[i].Addresses {
			if set[a] {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

type used struct{ routes, backends, certificates, authorities map[string]bool }

// uses gathers the names that listeners refer to, directly or not.
func uses(listeners []Listener, routes map[string]*Route, backends map[string]*Backend) used {
	u := used{map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}}
	for i := range listeners {
		l := &listeners[i]
		if l.TLS != nil {
			for _, c := range l.TLS.Certificates {
				u.certificates[c] = true
			}
			if v := l.TLS.ClientValidation; v != nil {
				for _, a := range v.Authorities {
					u.authorities[a] = true
				}
			}
		}
		if l.BackendCertificate != "" {
			u.certificates[l.BackendCertificate] = true
		}
		for _, h := range l.HTTP {
			for _, r := range h.Rules {
				for _, b := range r.Backends {
					u.backends[b.Backend] = true
				}
			}
		}
		for _, r := range l.L4 {
			u.routes[r.Route] = true
		}
	}
	for name := range u.routes {
		if r := routes[name]; r != nil {
			for _, b := range r.Backends {
				u.backends[b.Backend] = true
			}
		}
	}
	for name := range u.backends {
		if b := backends[name]; b != nil && b.TLS != nil {
			for _, a := range b.TLS.Authorities {
				u.authorities[a] = true
			}
		}
	}
	return u
}

func byName[T any](in []T, name func(*T) string) map[string]*T {
	out := make(map[string]*T, len(in))
	for i := range in {
		out[name(&in[i])] = &in[i]
	}
	return out
}

func pick[T any](from map[string]*T, names map[string]bool) []T {
	var out []T
	for n := range names {
		if x := from[n]; x != nil {
			out = append(out, *x)
		}
	}
	return out
}

// Join puts parts together again. They come newest first: where two of them
// define something differently, which lasts until the older one is brought up
// to date, the newer one counts. A listener that cannot be told apart from one
// of a newer part is left out; left names it, with the reason.
//
// The result shares memory with the parts.
func Join(parts []*Snapshot) (s *Snapshot, left map[string]string) {
	s, left = &Snapshot{}, map[string]string{}
	routes, backends, certificates, authorities := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	users := sockets{}
	held := map[netip.Addr]bool{}
	for _, p := range parts {
		for i := range p.Listeners {
			l := &p.Listeners[i]
			if problem := users.conflict(l); problem != "" {
				left[l.Name] = problem
				continue
			}
			users.add(l)
			s.Listeners = append(s.Listeners, *l)
		}
		s.Routes = appendNew(s.Routes, p.Routes, routes, func(r *Route) string { return r.Name })
		s.Backends = appendNew(s.Backends, p.Backends, backends, func(b *Backend) string { return b.Name })
		s.Certificates = appendNew(s.Certificates, p.Certificates, certificates, func(c *Certificate) string { return c.Name })
		for _, a := range p.Addresses {
			held[a] = true
		}
		s.Authorities = appendNew(s.Authorities, p.Authorities, authorities, func(a *Authority) string { return a.Name })
	}
	s.Addresses = among(s.Listeners, held)
	s.Sort()
	return s, left
}

func appendNew[T any](to, from []T, have map[string]bool, name func(*T) string) []T {
	for i := range from {
		if n := name(&from[i]); !have[n] {
			have[n] = true
			to = append(to, from[i])
		}
	}
	return to
}

// sockets are the listeners by where they listen.
type sockets map[socketKey][]*Listener

// socketKey is where a listener listens. The zero Addr is every address.
type socketKey struct {
	at  netip.AddrPort
	udp bool
}

func (s sockets) add(l *Listener) {
	for _, k := range l.socketKeys() {
		s[k] = append(s[k], l)
	}
}

// conflict says why l cannot be told apart from a listener that is there.
func (s sockets) conflict(l *Listener) string {
	for _, k := range l.socketKeys() {
		for _, o := range s[k] {
			encrypted := o.Protocol == TLS || o.Protocol == HTTPS
			switch {
			case o.Name == l.Name:
				return fmt.Sprintf("listener %s is there already", l.Name)
			case o.Protocol != l.Protocol && (!encrypted || l.Protocol != TLS && l.Protocol != HTTPS),
				l.Protocol == TCP, l.Protocol == UDP:
				return fmt.Sprintf("port %d is also used by listener %s with protocol %s", l.Port, o.Name, o.Protocol)
			case o.Hostname == l.Hostname:
				return fmt.Sprintf("port %d hostname %q is also used by listener %s", l.Port, l.Hostname, o.Name)
			}
		}
	}
	return ""
}

func (l *Listener) socketKeys() []socketKey {
	udp := l.Protocol == UDP
	if len(l.Addresses) == 0 {
		return []socketKey{{netip.AddrPortFrom(netip.Addr{}, l.Port), udp}}
	}
	keys := make([]socketKey, 0, len(l.Addresses))
	for _, a := range l.Addresses {
		if k := (socketKey{netip.AddrPortFrom(a, l.Port), udp}); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}
