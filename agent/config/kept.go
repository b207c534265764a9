// SPDX-License-Identifier: Apache-2.0

package config

import "slices"

// Kept returns what of a part may go on where next, which is to take its place,
// cannot be had: nothing that next has not as well, neither listener nor route,
// backend or certificate, and nothing that it has more. Settings are those of next.
func (s *Snapshot) Kept(next *Snapshot) *Snapshot {
	return next.with(s, func(l *Listener, was *Listener) {
		l.L4 = slices.DeleteFunc(slices.Clone(l.L4), func(r HostRoute) bool { return !slices.Contains(was.L4, r) })
		l.HTTP = keptHosts(was.HTTP, l.HTTP)
	})
}

// Closed is Kept with nothing but the names of the listeners: all are refused.
func (s *Snapshot) Closed(next *Snapshot, why string) *Snapshot {
	return next.with(s, func(l *Listener, _ *Listener) {
		l.L4, l.HTTP, l.BackendCertificate, l.NotServed = nil, nil, "", why
		if l.TLS != nil {
			l.TLS = &ListenerTLS{Passthrough: l.TLS.Passthrough}
		}
	})
}

// with is s with those of its listeners that before has too, after a change.
func (s *Snapshot) with(before *Snapshot, change func(l, was *Listener)) *Snapshot {
	had := byName(before.Listeners, func(l *Listener) string { return l.Name })
	out := *s
	out.Listeners = nil
	for _, l := range s.Listeners {
		if was := had[l.Name]; was != nil {
			change(&l, was)
			out.Listeners = append(out.Listeners, l)
		}
	}
	if part := out.split(func(*Listener) string { return "" })[""]; part != nil {
		return part
	}
	return &Snapshot{}
}

// keptHosts are the rules of hosts that had them, as far as now has their routes.
// What a route refers to no more has its share answered 500.
func keptHosts(had, now []HTTPHost) []HTTPHost {
	var out []HTTPHost
	for _, h := range now {
		i := slices.IndexFunc(had, func(o HTTPHost) bool { return o.Hostname == h.Hostname })
		if i < 0 {
			continue
		}
		backends := map[string]map[string]bool{} // by route
		for _, r := range h.Rules {
			if backends[r.Route] == nil {
				backends[r.Route] = map[string]bool{}
			}
			for _, b := range r.Backends {
				backends[r.Route][b.Backend] = true
			}
		}
		h.Rules = nil
		for _, r := range had[i].Rules {
			allowed := backends[r.Route]
			if allowed == nil {
				continue
			}
			r.Backends = slices.Clone(r.Backends)
			for j := range r.Backends {
				if b := &r.Backends[j].Backend; !allowed[*b] {
					*b = ""
				}
			}
			h.Rules = append(h.Rules, r)
		}
		out = append(out, h)
	}
	return out
}
