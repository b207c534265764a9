// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/terminator/balance"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

// Question is a connection that a client could make.
type Question struct {
	// Client is where it comes from, the zero Addr for anywhere.
	Client netip.Addr `json:"client,omitzero"`
	// Local and Port are where it goes to. Local may be the zero Addr where the
	// port is listened on in one way.
	Local netip.Addr `json:"local,omitzero"`
	Port  uint16     `json:"port"`
	// SNI is the server name that the client asks for; without TLS, and with
	// HTTP, it is the host of the request.
	SNI  string   `json:"sni,omitempty"`
	ALPN []string `json:"alpn,omitempty"`
	// Method and Path are of the request where HTTP is served; GET and / when
	// empty.
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
}

// Explanation is what the connection would get.
type Explanation struct {
	Question Question `json:"question"`
	// Steps are the decision in words, one after the other.
	Steps []string `json:"steps"`
	// Refused is the result that the access log would have of a connection that
	// is refused, "" for one that is not.
	Refused     string `json:"refused,omitempty"`
	Listener    string `json:"listener,omitempty"`
	Passthrough bool   `json:"passthrough,omitempty"`
	// Certificate names the one that the client is shown.
	Certificate string `json:"certificate,omitempty"`
	TLSVersion  string `json:"tlsVersion,omitempty"`
	CipherSuite string `json:"cipherSuite,omitempty"`
	ALPN        string `json:"alpn,omitempty"`
	// HTTP tells that requests have routes, not the connection. Status is what
	// the request is answered with without a backend, 0 where it has one.
	HTTP   bool   `json:"http,omitempty"`
	Status int    `json:"status,omitempty"`
	Route  string `json:"route,omitempty"`
	// Backends share the connections of the route by weight.
	Backends []Share `json:"backends,omitempty"`
}

// Share is one of the backends of a route.
type Share struct {
	// Backend is "" for a reference that leads nowhere.
	Backend string  `json:"backend,omitempty"`
	Percent float64 `json:"percent"`
	// TLS tells that the gateway speaks TLS with the backend.
	TLS       bool            `json:"tls,omitempty"`
	Endpoints []EndpointState `json:"endpoints,omitempty"`
}

// EndpointState is an endpoint as the balancer sees it: of two random ones it
// takes the one with fewer connections, and those that failed of late last.
type EndpointState struct {
	Address     string `json:"address"`
	Connections int64  `json:"connections"`
	Failed      bool   `json:"failed,omitempty"`
}

// NotListening is what Explanation.Refused says where nothing takes the
// connection, which no access log has.
const NotListening = "not_listening"

// Explain tells what a connection would get that comes in now. It asks what
// serves connections, and changes nothing.
//
// It fails where the question leaves open which socket takes the connection.
func (s *Server) Explain(q Question) (*Explanation, error) {
	s.init()
	st := s.snapshot.Load()
	key, err := st.socketFor(q)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	var failed error
	if k := s.sockets[key]; k != nil {
		failed = k.err
	}
	s.mu.Unlock()
	return st.explain(q, key, failed), nil
}

// Explain tells what a connection would get where a snapshot is served, as
// [Server.Explain] does. The snapshot must be sorted and valid.
func Explain(snap *config.Snapshot, q Question) (*Explanation, error) {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	s.init()
	s.mu.Lock()
	st := s.compile(snap, &state{})
	s.mu.Unlock()
	key, err := st.socketFor(q)
	if err != nil {
		return nil, err
	}
	return st.explain(q, key, nil), nil
}

// socketFor finds the socket that takes the connection; its key is not among
// those of st where there is none.
func (st *state) socketFor(q Question) (socketKey, error) {
	if q.Local.IsValid() {
		key := socketKey{q.Local.Unmap(), q.Port}
		if st.ports[key] == nil {
			key.addr = netip.Addr{}
		}
		return key, nil
	}
	var all []socketKey
	for key := range st.ports {
		if key.port == q.Port {
			all = append(all, key)
		}
	}
	switch len(all) {
	case 0:
		return socketKey{port: q.Port}, nil
	case 1:
		return all[0], nil
	}
	var names []string
	for _, key := range all {
		names = append(names, key.String())
	}
	slices.Sort(names)
	return socketKey{}, fmt.Errorf("port %d is listened on at %s; say which address the client connects to", q.Port, strings.Join(names, " and "))
}

func (x *Explanation) step(format string, args ...any) {
	x.Steps = append(x.Steps, fmt.Sprintf(format, args...))
}

func (x *Explanation) refuse(end relay.End, format string, args ...any) {
	x.Refused = string(end)
	x.step(format, args...)
}

func (st *state) explain(q Question, key socketKey, failed error) *Explanation {
	q.Method, q.Path = cmp.Or(q.Method, http.MethodGet), cmp.Or(q.Path, "/")
	x := &Explanation{Question: q}
	p := st.ports[key]
	switch {
	case p == nil:
		x.refuse(NotListening, "nothing listens for TCP on port %d", q.Port)
	case failed != nil:
		x.refuse(NotListening, "socket %s cannot listen: %v", key, failed)
	case p.tls:
		x.step("socket %s takes it, where TLS is spoken", key)
		st.explainTLS(x, p)
	case p.tcp != nil:
		x.step("socket %s takes it, for listener %s with protocol TCP", key, p.tcp.config.Name)
		if x.enters(p.tcp) {
			r, _ := p.tcp.l4.find("")
			st.explainRoute(x, p.tcp, r)
		}
	default:
		x.step("socket %s takes it, where HTTP is spoken", key)
		st.explainHTTP(x, p)
	}
	return x
}

// enters tells whether a listener has room for one more connection.
func (x *Explanation) enters(l *listener) bool {
	x.Listener = l.config.Name
	if active, most := l.limit.active.Load(), l.limit.max.Load(); active >= most {
		x.refuse(endLimit, "listener %s has its %d connections, and resets more", l.config.Name, most)
		return false
	}
	return true
}

// explainTLS has the handshake done, in memory, between crypto/tls and what
// the port serves.
func (st *state) explainTLS(x *Explanation, p *port) {
	var d decision
	asked := false
	server := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		asked = true
		d = p.decide(normalName(hello.ServerName))
		x.explainName(normalName(hello.ServerName), p, &d)
		if x.Refused != "" || d.passthrough || d.listener.err != nil {
			return nil, errVerdict
		}
		return d.config(), nil
	}}
	cs, err := handshake(server, &tls.Config{ServerName: x.Question.SNI, NextProtos: x.Question.ALPN, InsecureSkipVerify: true})
	switch {
	case !asked:
		x.refuse(endHandshake, "no client can ask for this server name: %v", err)
	case x.Refused != "":
	case !d.http && !st.hasEndpoint(d.route):
		st.explainRoute(x, d.listener, d.route)
	case d.passthrough:
		x.Passthrough = true
		x.step("TLS is not terminated: the backend does the handshake, with its own certificate")
		st.explainRoute(x, d.listener, d.route)
	case d.listener.err != nil:
		x.refuse(endNotServed, "the listener cannot terminate TLS: %v", d.listener.err)
	case err != nil:
		if d.route != nil {
			st.explainRoute(x, d.listener, d.route) // which is chosen before
		}
		x.refuse(endHandshake, "the handshake fails: %v", err)
	default:
		st.explainHandshake(x, d.listener, &cs)
		if d.http {
			st.explainRequest(x, d.listener, d.listener.config.HTTP)
		} else {
			st.explainRoute(x, d.listener, d.route)
		}
	}
}

// handshake lets a client and a server meet.
func handshake(server, client *tls.Config) (tls.ConnectionState, error) {
	near, far := net.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := tls.Server(far, server).HandshakeContext(ctx)
		if err != nil {
			far.Close()
		}
		done <- err
	}()
	c := tls.Client(near, client)
	err := c.HandshakeContext(ctx)
	near.Close() // what the server still sends, tickets, has no reader
	serverErr := <-done
	far.Close()
	if err != nil && serverErr != nil && !errors.Is(serverErr, errVerdict) {
		err = serverErr // says more than the alert
	}
	return c.ConnectionState(), err
}

// explainName says where a server name leads.
func (x *Explanation) explainName(name string, p *port, d *decision) {
	text := fmt.Sprintf("server name %q", name)
	if name == "" {
		text = "the client sends no server name"
	}
	if d.listener == nil {
		x.refuse(d.end, "%s: no listener of the port has it (%s); the connection is reset", text, hostnames(&p.byName))
		return
	}
	x.step("%s: listener %s takes it, by %s, the most specific", text, d.listener.config.Name, hostnameText(d.listener.config.Hostname))
	switch {
	case !x.enters(d.listener):
	case d.end == endNotServed:
		x.refuse(d.end, "the listener is not served: %s", d.listener.config.NotServed)
	case d.end == endNoRoute:
		x.refuse(d.end, "no route of the listener has the name (%s); the connection is reset", hostnames(&d.listener.l4))
	case d.http && len(d.listener.config.L4) > 0:
		x.step("an HTTPRoute has the name, which comes before TCPRoutes")
	case d.listener.config.Protocol == config.HTTPS && !d.http:
		x.step("no HTTPRoute has the name, so that a TCPRoute gets the connection")
	}
}

func hostnameText(h string) string {
	if h == "" {
		return "having no hostname"
	}
	return fmt.Sprintf("hostname %q", h)
}

// hostnames lists some of the names that there are.
func hostnames[T any](n *names[T]) string {
	const most = 5
	var all []string
	for h := range n.all() {
		all = append(all, cmp.Or(h, "every name"))
	}
	slices.SortFunc(all, config.CompareHostnames)
	if len(all) > most {
		all = append(all[:most], fmt.Sprintf("and %d more", len(all)-most))
	}
	return "there are " + cmp.Or(strings.Join(all, ", "), "none")
}

func (st *state) explainHandshake(x *Explanation, l *listener, cs *tls.ConnectionState) {
	x.TLSVersion, x.CipherSuite, x.ALPN = tls.VersionName(cs.Version), tls.CipherSuiteName(cs.CipherSuite), cs.NegotiatedProtocol
	id := sha256.Sum256(cs.PeerCertificates[0].Raw)
	for _, n := range l.config.TLS.Certificates {
		if c := st.certificates[n]; c != nil && c.id == id {
			x.Certificate = n
			x.step("certificate of Secret %s, for %s, among %d of the listener", n, cmp.Or(strings.Join(c.names, ", "), "no name"), len(l.config.TLS.Certificates))
			break
		}
	}
	agreed := "no ALPN"
	if x.ALPN != "" {
		agreed = "ALPN " + x.ALPN
	}
	x.step("a client of today and the listener agree on %s, %s, %s", x.TLSVersion, x.CipherSuite, agreed)
	if v := l.config.TLS.ClientValidation; v != nil && v.Optional {
		x.step("the client is asked for a certificate, and served without a good one too")
	} else if v != nil {
		x.step("the client must show a certificate of %s", strings.Join(v.Authorities, ", "))
	}
}

// hasEndpoint tells whether any connection of a route has somewhere to go.
func (st *state) hasEndpoint(r *route) bool {
	return r != nil && slices.ContainsFunc(r.refs, func(ref balance.Ref) bool {
		return ref.Weight > 0 && ref.Backend != nil && len(ref.Backend.Endpoints()) > 0
	})
}

// explainRoute says where the connections of a route go.
func (st *state) explainRoute(x *Explanation, l *listener, r *route) {
	if r == nil {
		x.refuse(endNoRoute, "the listener has no route; the connection is reset")
		return
	}
	x.Route = r.name
	x.step("route %s", r.name)
	st.share(x, r.refs)
	if !st.hasEndpoint(r) {
		x.refuse(endNoEndpoint, "no backend of the route has an endpoint; the connection is reset")
	}
}

// share lists backends by weight.
func (st *state) share(x *Explanation, refs []balance.Ref) {
	sum := 0
	for _, r := range refs {
		sum += r.Weight
	}
	now := time.Now()
	for _, r := range refs {
		if r.Weight == 0 {
			continue
		}
		s := Share{Percent: 100 * float64(r.Weight) / float64(sum)}
		if r.Backend == nil {
			x.Backends = append(x.Backends, s)
			x.step("%.3g%% has a backendRef that leads nowhere, and is refused", s.Percent)
			continue
		}
		s.Backend, s.TLS = r.Backend.Name, st.origins[r.Backend.Name] != nil
		for _, e := range r.Backend.Endpoints() {
			s.Endpoints = append(s.Endpoints, EndpointState{e.Address, e.Active(), !e.Well(now)})
		}
		x.Backends = append(x.Backends, s)
		text := fmt.Sprintf("%.3g%% goes to backend %s", s.Percent, s.Backend)
		if o := st.origins[s.Backend]; o != nil && o.err != nil {
			text += fmt.Sprintf(", and is refused: %v", o.err)
		} else if s.TLS {
			text += " over TLS"
		}
		switch len(s.Endpoints) {
		case 0:
			text += ", which has no endpoints"
		case 1:
			text += ", at its only endpoint " + s.Endpoints[0].Address
		default:
			text += fmt.Sprintf(", at the less loaded of two random endpoints of %d", len(s.Endpoints))
		}
		x.step("%s", text)
	}
}
