// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Validate reports everything that keeps the snapshot from being served, all
// problems joined, each with the name of its object; nil when there is none.
// The translator never makes an invalid snapshot: users' mistakes are statuses.
func (s *Snapshot) Validate() error {
	v := validation{certificates: names(s.Certificates, func(c Certificate) string { return c.Name }),
		backends:       names(s.Backends, func(b Backend) string { return b.Name }),
		routes:         names(s.Routes, func(r Route) string { return r.Name }),
		authorityNames: names(s.Authorities, func(a Authority) string { return a.Name })}
	sorted(&v, "listener", s.Listeners, func(l Listener) string { return l.Name })
	sorted(&v, "route", s.Routes, func(r Route) string { return r.Name })
	sorted(&v, "backend", s.Backends, func(b Backend) string { return b.Name })
	sorted(&v, "certificate", s.Certificates, func(c Certificate) string { return c.Name })
	sorted(&v, "authority", s.Authorities, func(a Authority) string { return a.Name })
	for i := range s.Listeners {
		v.listener(&s.Listeners[i])
	}
	v.sockets(s.Listeners)
	v.addresses(s)
	for _, r := range s.Routes {
		for _, b := range r.Backends {
			v.backendRef("route "+r.Name, b)
		}
	}
	for _, b := range s.Backends {
		for _, e := range b.Endpoints {
			if e.Host == "" || e.Port == 0 {
				v.addf("backend %s: endpoint %q port %d: host and port are required", b.Name, e.Host, e.Port)
			}
		}
		v.backendTLS("backend "+b.Name, b.TLS)
		if b.Service != nil && len(b.Endpoints) > 0 {
			v.addf("backend %s: has a Service to take endpoints from and endpoints of its own", b.Name)
		}
	}
	for _, c := range s.Certificates {
		if len(c.Chain) == 0 || len(c.Key) == 0 {
			v.addf("certificate %s: chain and key are required", c.Name)
		}
	}
	for _, a := range s.Authorities {
		if len(a.Bundle) == 0 {
			v.addf("authority %s: bundle is required", a.Name)
		}
	}
	return errors.Join(v.problems...)
}

type validation struct {
	problems                       []error
	certificates, backends, routes map[string]bool
	authorityNames                 map[string]bool
}

func (v *validation) addf(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(format, args...))
}

func names[T any](in []T, name func(T) string) map[string]bool {
	out := make(map[string]bool, len(in))
	for _, x := range in {
		out[name(x)] = true
	}
	return out
}

func sorted[T any](v *validation, kind string, in []T, name func(T) string) {
	for i, x := range in {
		if name(x) == "" {
			v.addf("%s %d: name is required", kind, i)
		}
		if i > 0 && cmp.Compare(name(in[i-1]), name(x)) >= 0 {
			v.addf("%s %s: out of order or given twice", kind, name(x))
		}
	}
}

func (v *validation) listener(l *Listener) {
	at := "listener " + l.Name
	if l.Port == 0 {
		v.addf("%s: port is required", at)
	}
	v.hostname(at, l.Hostname)
	encrypted := l.Protocol == HTTPS || l.Protocol == TLS
	switch {
	case !slices.Contains([]Protocol{HTTP, HTTPS, TLS, TCP, UDP}, l.Protocol):
		v.addf("%s: protocol %q is not one of HTTP, HTTPS, TLS, TCP, UDP", at, l.Protocol)
	case encrypted && l.TLS == nil:
		v.addf("%s: protocol %s needs tls", at, l.Protocol)
	case !encrypted && l.TLS != nil:
		v.addf("%s: protocol %s takes no tls", at, l.Protocol)
	case l.TLS != nil:
		v.tls(at, l)
	}
	if n := l.BackendCertificate; n != "" && !v.certificates[n] {
		v.addf("%s: certificate %s does not exist", at, n)
	}
	if l.NotServed != "" && (len(l.L4) > 0 || len(l.HTTP) > 0 || l.TLS != nil && len(l.TLS.Certificates) > 0) {
		v.addf("%s: is not served (%s) and has routes or certificates", at, l.NotServed)
	}
	if (l.Protocol == TCP || l.Protocol == UDP) && l.Hostname != "" {
		v.addf("%s: protocol %s takes no hostname", at, l.Protocol)
	}
	if len(l.HTTP) > 0 && l.Protocol != HTTP && l.Protocol != HTTPS {
		v.addf("%s: protocol %s takes no HTTP rules", at, l.Protocol)
	}
	if len(l.L4) > 0 && l.Protocol == HTTP {
		v.addf("%s: protocol HTTP takes no L4 routes", at)
	}
	for i, r := range l.L4 {
		v.hostname(at, r.Hostname)
		if !v.routes[r.Route] {
			v.addf("%s: route %s does not exist", at, r.Route)
		}
		if i > 0 && CompareHostnames(l.L4[i-1].Hostname, r.Hostname) >= 0 {
			v.addf("%s: route %s: hostname %q out of order or given twice", at, r.Route, r.Hostname)
		}
	}
	for i, h := range l.HTTP {
		v.hostname(at, h.Hostname)
		if i > 0 && CompareHostnames(l.HTTP[i-1].Hostname, h.Hostname) >= 0 {
			v.addf("%s: HTTP host %q out of order or given twice", at, h.Hostname)
		}
		for _, r := range h.Rules {
			for _, b := range r.Backends {
				v.backendRef(at+": "+r.Route, b.BackendRef)
			}
		}
	}
}

func (v *validation) tls(at string, l *Listener) {
	switch {
	case l.TLS.Passthrough && l.Protocol == HTTPS:
		v.addf("%s: protocol HTTPS takes no passthrough", at)
	case l.TLS.Passthrough && len(l.TLS.Certificates) > 0:
		v.addf("%s: passthrough takes no certificates", at)
	case !l.TLS.Passthrough && len(l.TLS.Certificates) == 0 && l.NotServed == "":
		v.addf("%s: termination needs a certificate", at)
	}
	for _, c := range l.TLS.Certificates {
		if !v.certificates[c] {
			v.addf("%s: certificate %s does not exist", at, c)
		}
	}
	v.clientValidation(at, l)
}

func (v *validation) hostname(at, h string) {
	rest := strings.TrimPrefix(h, "*.")
	if strings.ContainsAny(rest, "*:/ ") || h != strings.ToLower(h) || strings.HasSuffix(h, ".") || (h != "" && rest == "") {
		v.addf("%s: hostname %q is neither a lower-case name nor *.name", at, h)
	}
}

func (v *validation) backendRef(at string, b BackendRef) {
	if b.Backend != "" && !v.backends[b.Backend] {
		v.addf("%s: backend %s does not exist", at, b.Backend)
	}
	if b.Weight < 0 || b.Weight > 1_000_000 {
		v.addf("%s: backend %s: weight %d is not in 0 to 1000000", at, b.Backend, b.Weight)
	}
}

// sockets checks that listeners on one address and port can be told apart.
func (v *validation) sockets(listeners []Listener) {
	users := sockets{}
	for i := range listeners {
		l := &listeners[i]
		if problem := users.conflict(l); problem != "" {
			v.addf("listener %s: %s", l.Name, problem)
		}
		users.add(l)
	}
}

// addresses checks that each address to be held is some listener's.
func (v *validation) addresses(s *Snapshot) {
	of := map[netip.Addr]bool{}
	for i := range s.Listeners {
		for _, a := range s.Listeners[i].Addresses {
			of[a] = true
		}
	}
	for i, a := range s.Addresses {
		if i > 0 && s.Addresses[i-1].Compare(a) >= 0 {
			v.addf("address %s: out of order or given twice", a)
		}
		if !of[a] {
			v.addf("address %s: no listener has it", a)
		}
	}
}
