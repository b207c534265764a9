// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/terminator/balance"
)

// state is a snapshot made ready to serve. It is never changed, so a lookup
// takes no lock.
type state struct {
	hash         string
	listeners    map[string]*listener
	ports        map[socketKey]*port
	backends     map[string]*balance.Backend
	protocols    map[string]string
	origins      map[string]*origin // by backend, of those that want TLS
	certificates map[string]*certificate
	authorities  map[string]*bundle
	trusts       map[trust]*tickets
	comes        map[netip.Addr]bool // the node has it at times only
	idle         time.Duration       // the shortest idle timeout
}

// at returns what a connection to a local address meets, nil for nothing.
func (st *state) at(local netip.AddrPort) *port {
	if p := st.ports[socketKey{local.Addr(), local.Port()}]; p != nil {
		return p
	}
	return st.ports[socketKey{port: local.Port()}]
}

// port is what one socket serves: one TCP listener, or listeners of HTTP or of
// TLS (HTTPS counts as TLS) by host name.
type port struct {
	tcp    *listener
	tls    bool
	first  *listener // of those that are served, in order of listener names
	byName names[*listener]
}

type listener struct {
	config  config.Listener
	limit   *limit
	share   share // of the turns to compute
	sockets []socketKey
	idle    time.Duration
	l4      names[*route]
	http    names[struct{}]
	origins map[string]*origin // of the same snapshot
	// shown is the certificate for backends that ask for one, or nil.
	shown     *certificate
	clientCAs *x509.CertPool // nil where clients are not asked
	clients   string         // identifies the CAs of what they must show; "" for nothing
	chooser   *chooser
	forL4     *tls.Config
	forHTTP   *tls.Config
	err       error // nothing is served
	partial   error // a certificate among others cannot be used
}

type route struct {
	name string
	refs []balance.Ref
}

// limit counts the connections of a listener, across snapshots.
type limit struct {
	active atomic.Int64
	max    atomic.Int64
}

func (l *limit) enter() bool {
	if l.active.Add(1) > l.max.Load() {
		l.active.Add(-1)
		return false
	}
	return true
}

func (l *limit) leave() { l.active.Add(-1) }

// compile turns a snapshot into a state. It takes over what outlives snapshots
// from old. s.mu is held.
func (s *Server) compile(snap *config.Snapshot, old *state) *state {
	st := &state{
		hash:         snap.Hash(),
		listeners:    make(map[string]*listener, len(snap.Listeners)),
		ports:        map[socketKey]*port{},
		protocols:    make(map[string]string, len(snap.Backends)),
		certificates: make(map[string]*certificate, len(snap.Certificates)),
		trusts:       map[trust]*tickets{},
		comes:        make(map[netip.Addr]bool, len(snap.Addresses)),
		idle:         s.IdleTimeout,
	}
	for _, a := range snap.Addresses {
		st.comes[a.Unmap()] = true
	}
	addresses := make(map[string][]string, len(snap.Backends))
	for _, b := range snap.Backends {
		st.protocols[b.Name] = b.Protocol
		list := make([]string, len(b.Endpoints))
		for i, e := range b.Endpoints {
			list[i] = net.JoinHostPort(e.Host, itoa(e.Port))
		}
		addresses[b.Name] = list
	}
	var shrunk []string
	st.backends, shrunk = s.balance.Update(addresses)
	for _, name := range shrunk {
		s.http.Forget(name)
	}
	routes := make(map[string]*route, len(snap.Routes))
	for _, r := range snap.Routes {
		refs := make([]balance.Ref, len(r.Backends))
		for i, b := range r.Backends {
			refs[i] = balance.Ref{Backend: st.backends[b.Backend], Weight: b.Weight}
		}
		routes[r.Name] = &route{name: r.Name, refs: refs}
	}
	problems := st.parse(snap.Certificates, old.certificates)
	st.parseAuthorities(snap.Authorities, old.authorities)
	st.compileOrigins(snap.Backends)
	for _, l := range snap.Listeners {
		s.compileListener(st, l, routes, problems)
	}
	st.spread()
	return st
}

// spread brings the listeners for all addresses to the sockets of single ones,
// which would hide them there. Where they cannot be told apart by host name
// the single address wins.
func (st *state) spread() {
	for key, p := range st.ports {
		all := st.ports[socketKey{port: key.port}]
		if all == nil || all == p || p.tcp != nil || all.tcp != nil || p.tls != all.tls {
			continue
		}
		for hostname, l := range all.byName.all() {
			p.byName.add(hostname, l)
		}
	}
}

// parse reads the certificates that changed and returns the errors by name.
func (st *state) parse(all []config.Certificate, old map[string]*certificate) map[string]error {
	problems := map[string]error{}
	for _, c := range all {
		parsed := old[c.Name]
		if parsed == nil || !parsed.same(c) {
			var err error
			if parsed, err = parseCertificate(c); err != nil {
				problems[c.Name] = err
				continue
			}
		}
		st.certificates[c.Name] = parsed
	}
	return problems
}

func (s *Server) compileListener(st *state, in config.Listener, routes map[string]*route, problems map[string]error) {
	l := &listener{config: in, idle: in.IdleTimeout, limit: s.limits[in.Name], origins: st.origins,
		shown: st.certificates[in.BackendCertificate], partial: problems[in.BackendCertificate]}
	if l.limit == nil {
		l.limit = &limit{}
		s.limits[in.Name] = l.limit
	}
	def(&in.MaxConnections, s.MaxConnections)
	l.limit.max.Store(int64(in.MaxConnections))
	def(&l.idle, s.IdleTimeout)
	st.idle = min(st.idle, l.idle)
	for _, r := range in.L4 {
		l.l4.add(r.Hostname, routes[r.Route])
	}
	for _, h := range in.HTTP {
		l.http.add(h.Hostname, struct{}{})
	}
	switch {
	case in.NotServed != "":
		l.err = errors.New(in.NotServed)
	case in.TLS != nil && !in.TLS.Passthrough:
		s.compileTLS(st, l, problems)
	}
	st.listeners[in.Name] = l
	addrs := in.Addresses
	if len(addrs) == 0 {
		addrs = []netip.Addr{{}}
	}
	for _, a := range addrs {
		key := socketKey{a.Unmap(), in.Port}
		l.sockets = append(l.sockets, key)
		p := st.ports[key]
		if p == nil {
			p = &port{}
			st.ports[key] = p
		}
		if in.Protocol == config.TCP {
			p.tcp = l
			continue
		}
		p.tls = in.TLS != nil
		if p.first == nil || p.first.config.NotServed != "" {
			p.first = l
		}
		p.byName.add(in.Hostname, l)
	}
}

func (s *Server) compileTLS(st *state, l *listener, problems map[string]error) {
	var usable []*certificate
	var errs []error
	for _, name := range l.config.TLS.Certificates {
		if c := st.certificates[name]; c != nil {
			usable = append(usable, c)
		} else {
			errs = append(errs, problems[name])
		}
	}
	if len(usable) == 0 {
		l.err = errors.Join(append(errs, errNoCertificate)...)
		return
	}
	l.partial = errors.Join(append(errs, l.partial)...)
	if v := l.config.TLS.ClientValidation; v != nil {
		l.clients = st.required(v)
		if l.clientCAs, l.err = st.pool(v.Authorities); l.err != nil {
			return
		}
	}
	id := st.trustOf(&l.config, usable)
	keys := s.trusts[id]
	if keys == nil {
		keys = newTickets(time.Now())
	}
	st.trusts[id] = keys
	l.chooser = newChooser(usable)
	make := func(alpn []string) *tls.Config {
		c := &tls.Config{
			GetCertificate:              l.certificate,
			NextProtos:                  alpn,
			MinVersion:                  max(tls.VersionTLS12, l.config.TLS.MinVersion),
			CipherSuites:                suites12,
			DynamicRecordSizingDisabled: true,
		}
		l.askClients(c)
		bindTickets(c)
		return c
	}
	l.forL4 = make(l.config.TLS.ALPN)
	l.forHTTP = l.forL4
	if len(l.config.TLS.ALPN) == 0 {
		l.forHTTP = make([]string{"h2", "http/1.1"})
	}
	keys.use(l.forL4, l.forHTTP)
}

// suites12 are the cipher suites of TLS 1.2: those with authenticated encryption.
// crypto/tls would have some with CBC and SHA-1, too, which Mozilla's guideline for
// servers no longer has. Those of TLS 1.3 cannot be chosen.
var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// claimsHTTP tells whether connections with this SNI name are HTTP.
func (l *listener) claimsHTTP(name string) bool {
	if l.config.Protocol != config.HTTPS {
		return false
	}
	if len(l.config.L4) == 0 {
		return true
	}
	_, ok := l.http.find(name)
	return ok
}

func itoa(port uint16) string { return strconv.Itoa(int(port)) }
