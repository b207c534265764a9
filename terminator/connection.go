// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-gateway/sluice/terminator/relay"
)

// Connection is what is known of a client connection.
type Connection struct {
	ID    uint64    `json:"id"`
	Start time.Time `json:"start"`
	// Client and Local are the ends of the client leg.
	Client netip.AddrPort `json:"client"`
	Local  netip.AddrPort `json:"local"`
	// Listener is empty until the client's SNI name is known.
	Listener string `json:"listener,omitempty"`
	// SNI is the server name in lower case; empty for none, or an address.
	SNI         string `json:"sni,omitempty"`
	ALPN        string `json:"alpn,omitempty"`
	TLSVersion  string `json:"tlsVersion,omitempty"`
	CipherSuite string `json:"cipherSuite,omitempty"`
	// ClientCertificate names the client by the certificate that it showed: the
	// first URI, DNS name or e-mail address in it, else the subject. It is
	// verified unless ClientCertificateProblem says why not, which only listeners
	// that serve such clients have.
	ClientCertificate        string `json:"clientCertificate,omitempty"`
	ClientCertificateProblem string `json:"clientCertificateProblem,omitempty"`
	// Route, Backend and Endpoint are of the last request with HTTP, where a
	// connection carries many.
	Route    string `json:"route,omitempty"`
	Backend  string `json:"backend,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	// Up and Down are payload bytes from and to the client; with HTTP the bytes
	// on the wire.
	Up   int64 `json:"up"`
	Down int64 `json:"down"`
	// Path is how bytes travel: "spliced", "kernel" or "relay"; empty before
	// there is a backend leg. Reason says why it is not "spliced".
	Path   string `json:"path,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Ends of connections that never were relayed, or that the server ended. With
// those of package relay they are the values of the label "result".
const (
	endIdle             relay.End = "idle"
	endDrain            relay.End = "drain_deadline"
	endLimit            relay.End = "listener_limit"
	endMemory           relay.End = "no_memory"
	endNoListener       relay.End = "no_listener"
	endNoRoute          relay.End = "no_route"
	endNoEndpoint       relay.End = "no_endpoint"
	endConnect          relay.End = "connect_failed"
	endNotTLS           relay.End = "not_tls"
	endHandshake        relay.End = "handshake_failed"
	endHandshakeTimeout relay.End = "handshake_timeout"
	endNotServed        relay.End = "not_served"
	endEvicted          relay.End = "handshake_evicted"
	endShed             relay.End = "handshake_shed"
)

// known is what a connection knows of itself, and its sockets do not: as little as
// can be, for there are many.
type known struct {
	id                uint64
	start             time.Time
	sni, alpn         string
	version, suite    uint16 // 0: no handshake is over
	certificate       *shown // or nil
	refused           string // the listener that had its limit
	route             string
	backend, endpoint string
}

// shown is a client's certificate: its name, and why it does not verify.
type shown struct {
	name, problem string
	passed        string // listener.clients of a later snapshot that it passes
}

// connection is the life of one accepted connection.
type connection struct {
	s        *Server
	client   *net.TCPConn
	socket   *socket
	port     *port
	progress relay.Progress

	// Of the handshake and the connect, for the access log.
	handshook, connected time.Duration

	mu       sync.Mutex
	known    known
	listener *listener
	waiter   *waiter // while the handshake waits for its turn
	backend  relay.Leg
	looped   *relay.Looped // or nil
	forced   relay.End
	cancel   context.CancelFunc // of HTTP requests, or nil

	finished bool
	kernel   bool // the backend leg is fed by splice(2)
	http     bool // in the hands of package http
	probed   bool // by the kernel, while it is silent

	httpReset atomic.Bool // the client reset, as package http saw it
	requests  atomic.Int64

	// Of the idle watch alone: when bytes moved, since the start, and how many had.
	moved time.Duration
	seen  int64

	countedUp, countedDown int64 // bytes in the totals; guarded by Metrics.mu

	young *member // while in a handshake, under the mutex of the registry
}

// registry holds the open connections.
type registry struct {
	next  atomic.Uint64
	mu    sync.Mutex
	live  map[uint64]*connection
	wait  []chan struct{}
	young young
}

// open begins a connection.
func (s *Server) open(k *socket, tcp *net.TCPConn) *connection {
	now := time.Now()
	c := &connection{s: s, client: tcp, socket: k, port: k.state.Load()}
	c.known.id, c.known.start = s.conns.next.Add(1), now
	s.conns.mu.Lock()
	s.conns.live[c.known.id] = c
	if c.port.tls {
		s.conns.young.add(c, addrPort(tcp.RemoteAddr()).Addr())
	}
	s.conns.mu.Unlock()
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// set changes what is known.
func (c *connection) set(f func(*known)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.known)
}

// enter makes the connection one of a listener's, unless that has its limit.
func (c *connection) enter(l *listener) bool {
	if !l.limit.enter() {
		c.set(func(k *known) { k.refused = l.config.Name })
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listener = l
	return true
}

// attach gives the connection its backend leg. It returns false when the
// connection was told to end meanwhile; the leg is closed then.
func (c *connection) attach(l relay.Leg, kernel bool, looped *relay.Looped) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forced != "" {
		relay.Abort(l)
		return false
	}
	c.backend, c.kernel, c.looped = l, kernel, looped
	return true
}

// abort resets the connection, from any goroutine. Whoever serves it notices
// by its sockets.
func (c *connection) abort(why relay.End) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forced != "" || c.finished {
		return
	}
	c.forced = why
	if c.cancel != nil {
		c.cancel()
	}
	relay.Abort(c.client)
	if c.waiter != nil {
		c.s.turns.shed(c.waiter)
	}
	if c.backend != nil {
		relay.Abort(c.backend)
	}
	if c.looped != nil {
		c.looped.Check()
	}
}

// wait returns whether the turn of w, of this connection, has come. It does not
// when the connection is aborted, nor in half of the handshake's time: what is
// left is the client's.
func (c *connection) wait(w *waiter) bool {
	if !c.waitsFor(w) {
		c.s.turns.shed(w)
	}
	defer c.waitsFor(nil)
	return c.s.turns.wait(w, c.s.HandshakeTimeout/2)
}

// waitsFor returns false when the connection was told to end.
func (c *connection) waitsFor(w *waiter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiter = w
	return c.forced == ""
}

// finish ends the connection, whose sockets are closed: it is counted, logged
// and forgotten. Only the first call does anything.
func (c *connection) finish(end relay.End, err error) {
	c.mu.Lock()
	if c.finished {
		c.mu.Unlock()
		return
	}
	c.finished = true
	if c.cancel != nil {
		c.cancel()
	}
	if c.forced != "" {
		end, err = c.forced, nil
	}
	c.mu.Unlock()
	info := c.snapshot()
	if c.listener != nil {
		c.listener.limit.leave()
	}
	c.s.Metrics.ended(c, &info, end)
	c.log(&info, end, err)
	c.s.conns.remove(c)
	<-c.s.slots
}

// snapshot returns what is known now.
func (c *connection) snapshot() Connection {
	c.mu.Lock()
	k, listener, backend, kernel, finished, http := c.known, c.listener, c.backend, c.kernel, c.finished, c.http
	c.mu.Unlock()
	i := Connection{ID: k.id, Start: k.start, Client: addrPort(c.client.RemoteAddr()), Local: addrPort(c.client.LocalAddr()),
		Listener: k.refused, SNI: k.sni, ALPN: k.alpn, Route: k.route, Backend: k.backend, Endpoint: k.endpoint,
		Up: c.progress.Up.Load(), Down: c.progress.Down.Load()}
	if listener != nil {
		i.Listener = listener.config.Name
	}
	if k.version != 0 {
		i.TLSVersion, i.CipherSuite = tls.VersionName(k.version), tls.CipherSuiteName(k.suite)
	}
	if k.certificate != nil {
		i.ClientCertificate, i.ClientCertificateProblem = k.certificate.name, k.certificate.problem
	}
	switch {
	case http:
		i.Path, i.Reason = "relay", "http"
		return i
	case backend == nil:
		return i
	}
	if tcp, ok := backend.(*net.TCPConn); ok && kernel && !finished {
		i.Up, i.Down = max(i.Up, relay.Received(c.client)), max(i.Down, relay.Received(tcp))
	}
	switch p, ok := backend.(interface{ Path() (string, string) }); {
	case kernel:
		i.Path = "kernel"
	case ok:
		i.Path, i.Reason = p.Path()
	default:
		i.Path, i.Reason = "relay", c.s.RelayReason
	}
	return i
}

// Connections returns the open connections, oldest first.
func (s *Server) Connections() []Connection {
	s.init()
	all := s.conns.all()
	out := make([]Connection, len(all))
	for i, c := range all {
		out[i] = c.snapshot()
	}
	slices.SortFunc(out, func(a, b Connection) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (r *registry) all() []*connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*connection, 0, len(r.live))
	for _, c := range r.live {
		out = append(out, c)
	}
	return out
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
}

// undecided tells whether a connection is still in its handshake.
func (r *registry) undecided() bool {
	return slices.ContainsFunc(r.all(), func(c *connection) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.port.tls && c.known.version == 0 && c.known.route == ""
	})
}

// grown tells that a connection's handshake is over.
func (r *registry) grown(c *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.young.remove(c)
}

// evict makes room: clients that only connect must not keep others out.
func (r *registry) evict() {
	r.mu.Lock()
	c := r.young.first()
	if c != nil {
		r.young.remove(c)
	}
	r.mu.Unlock()
	if c != nil {
		c.abort(endEvicted)
	}
}

func (r *registry) remove(c *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.young.remove(c)
	delete(r.live, c.known.id)
	if len(r.live) == 0 {
		for _, w := range r.wait {
			close(w)
		}
		r.wait = nil
	}
}

// empty returns a channel that closes when there is no connection.
func (r *registry) empty() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := make(chan struct{})
	if len(r.live) == 0 {
		close(w)
	} else {
		r.wait = append(r.wait, w)
	}
	return w
}
