// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/terminator/balance"
	"github.com/sluice-gateway/sluice/terminator/httproute"
	"github.com/sluice-gateway/sluice/terminator/loop"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

// Server serves the listeners of snapshots. The zero value is usable; fields
// must not be changed after the first call of a method. Run must be called, or
// nothing is accepted.
type Server struct {
	// Dial connects the backend legs of terminated connections, from a local address or
	// nil for the kernel's choice; a nil Dial makes plain TCP connections. What it returns must be a *net.TCPConn or offer what one
	// does (relay.Leg); a method Path() (path, reason string), when there is
	// one, says how bytes travel now: "spliced", or "relay" and why. It must have
	// SO_LINGER {1, 0} before it connects: a killed process resets its backends.
	Dial func(ctx context.Context, from *net.TCPAddr, network, address string) (net.Conn, error)
	// RelayReason says why connections are relayed whose backend leg has no Path.
	RelayReason string

	// Sources are the local addresses that backends are connected to from, any of those of
	// the same family as the endpoint. None is the kernel's choice. Each has as many ports
	// towards an endpoint as net.ipv4.ip_local_port_range.
	Sources []netip.Addr
	// Full optionally returns why the process has no memory for another connection, and
	// what to do. New ones are reset for as long, rather than that the kernel ends all.
	Full func() error

	// NoRecordLoop leaves established TLS 1.3 connections to crypto/tls, which
	// costs more of the processor and memory (package record).
	NoRecordLoop bool
	// NoGCM leaves AES-GCM to crypto/cipher everywhere (package gcm).
	NoGCM bool
	// NoEventLoop has goroutines carry what the record loop has, too.
	NoEventLoop bool

	// HandshakeTimeout bounds the time from accept to the end of the TLS
	// handshake. Default 10 s.
	HandshakeTimeout time.Duration
	// ConnectTimeout bounds one attempt to connect to an endpoint, with the TLS
	// handshake where there is one. Default 4 s: a SYN that is lost is sent again
	// after 1 and 3 s (RFC 6298; newer kernels: 1, 2 and 3 s).
	ConnectTimeout time.Duration
	// IdleTimeout resets a connection that moved no byte for so long, where the
	// listener does not say. Default 1 h.
	IdleTimeout time.Duration
	// HalfCloseTimeout is the idle timeout, when it is shorter, of a connection
	// that ended in one direction. Default 5 min.
	HalfCloseTimeout time.Duration
	// KeepAlive is about the silence after which the kernel probes whether the other
	// end of a leg is still there: each leg has its own, from a third less to a third
	// more. Nine probes without an answer, one every fifth of it, end the connection.
	// Default 60 s.
	KeepAlive time.Duration
	// DrainTimeout is how long Run lets connections finish. Default 30 s.
	DrainTimeout time.Duration
	// Linger is the part of DrainTimeout in which Run goes on accepting: a
	// successor may take over (Listeners, Leave), and those who send clients here
	// have to hear that they should not. Default 0.
	Linger time.Duration
	// FreeBind listens on addresses of listeners even while the node does not
	// have them (IP_FREEBIND), so that an address that comes is served at once.
	// Without it only those of Snapshot.Addresses are.
	FreeBind bool
	// MaxConnections limits the client connections of each listener that has no
	// limit of its own. Default 50,000. All listeners together have half of the
	// descriptors that the process may open, and so have connections to HTTP backends.
	MaxConnections int

	// Log takes what an operator must know. Default slog.Default.
	Log *slog.Logger
	// AccessLog takes one record per connection, and one per HTTP request.
	// Default none.
	AccessLog *slog.Logger
	// Metrics counts. Default one that nobody reads.
	Metrics *Metrics

	once     sync.Once
	balance  balance.Set
	http     *httproute.Handler
	httpd    *http.Server
	httpNew  *chanListener
	hello    *tls.Config // of connections without verdict
	loops    *relay.Loops
	turns    turns         // of handshakes to compute
	slots    chan struct{} // a token for each connection that may be open
	reserve  reserve
	fullSaid atomic.Int64    // when the log had it, in Unix seconds
	kill     context.Context // ends when connections must
	killNow  context.CancelFunc
	conns    registry
	snapshot atomic.Pointer[state]

	upstreams chan struct{} // a token for each connection to an HTTP backend

	mu        sync.Mutex // Apply, Run
	sockets   map[socketKey]*socket
	inherited map[socketKey]*net.TCPListener // that nobody wanted yet
	limits    map[string]*limit              // by listener
	trusts    map[trust]*tickets             // of the present snapshot
	phase     phase
	left      chan struct{} // closed when it is stopped
	until     time.Time     // it may drain
	accepts   sync.WaitGroup
}

type phase int

const (
	prepared phase = iota
	running
	stopped
)

// init fills in defaults.
func (s *Server) init() {
	s.once.Do(func() {
		def(&s.HandshakeTimeout, 10*time.Second)
		def(&s.ConnectTimeout, 4*time.Second)
		def(&s.IdleTimeout, time.Hour)
		def(&s.HalfCloseTimeout, 5*time.Minute)
		def(&s.KeepAlive, time.Minute)
		def(&s.DrainTimeout, 30*time.Second)
		def(&s.MaxConnections, 50_000)
		if s.Log == nil {
			s.Log = slog.Default()
		}
		if s.Metrics == nil {
			s.Metrics = NewMetrics()
		}
		s.Metrics.server.Store(s)
		if s.Dial == nil {
			s.Dial = plain
		}
		s.hello = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: s.decide}
		s.turns.all = loop.Processors()
		s.turns.free = s.turns.all
		s.slots = make(chan struct{}, connectionBudget())
		s.upstreams = make(chan struct{}, cap(s.slots))
		s.kill, s.killNow = context.WithCancel(context.Background())
		s.conns.live = map[uint64]*connection{}
		s.sockets = map[socketKey]*socket{}
		s.left = make(chan struct{})
		s.limits = map[string]*limit{}
		s.trusts = map[trust]*tickets{}
		s.snapshot.Store(&state{})
		s.initHTTP()
	})
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run accepts connections until ctx ends, and for Linger. Then it stops to
// listen, lets the connections finish until DrainTimeout is over, resets those
// that are left, and returns nil when everything is gone. Call it once.
func (s *Server) Run(ctx context.Context) error {
	s.init()
	s.reserve.open()
	defer s.reserve.close()
	if !s.NoEventLoop {
		var err error
		if s.loops, err = relay.NewLoops(loop.Processors()); err != nil {
			s.Log.Warn("connections are carried by goroutines, which costs more", "error", err)
		}
		defer s.loops.Close()
		s.turns.beside(s.loops.Settled)
	}
	s.mu.Lock()
	s.phase = running
	for _, k := range s.sockets {
		s.start(k)
	}
	s.mu.Unlock()

	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { s.watch(stop) })
	wg.Go(func() { s.tend(ctx) })
	served := make(chan struct{})
	go func() { defer close(served); _ = s.httpd.Serve(s.httpNew) }()

	<-ctx.Done()
	deadline, cancel := context.WithTimeout(context.Background(), s.DrainTimeout)
	defer cancel()
	s.mu.Lock()
	s.until, _ = deadline.Deadline()
	s.mu.Unlock()
	select {
	case <-s.left:
	case <-time.After(s.Linger):
	}
	s.Leave()
	s.drain(deadline)
	close(stop)
	wg.Wait()
	<-served
	s.http.Close()
	return nil
}

// drain waits for the connections and ends what is left at the deadline.
func (s *Server) drain(deadline context.Context) {
	deadline, cancel := context.WithCancel(deadline)
	defer cancel()
	s.Log.Info("draining", "connections", s.conns.count(), "timeout", s.DrainTimeout)
	// A connection in its handshake may become one of package http.
	for end := time.Now().Add(time.Second); s.conns.undecided() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.httpd.Shutdown(deadline) })
	select {
	case <-s.conns.empty():
	case <-deadline.Done():
		s.Log.Warn("drain deadline: resetting connections", "connections", s.conns.count())
	}
	s.killNow()
	for _, c := range s.conns.all() {
		c.abort(endDrain)
	}
	_ = s.httpd.Close()
	<-s.conns.empty()
	cancel()
	wg.Wait()
}

// tend retries what could not listen and renews ticket keys until ctx ends.
func (s *Server) tend(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.mu.Lock()
			s.listenAgain()
			for _, t := range s.trusts {
				t.rotate(now)
			}
			s.mu.Unlock()
		}
	}
}

// keepAlive gives every leg a rhythm of its own. All that have moved bytes at the same
// time, as those of a broker's subscribers do, would be probed at the same time for ever;
// and of the packets for the machine itself that a processor sends at once, the kernel
// drops those beyond net.core.netdev_max_backlog (1,000), each time the same ones,
// until it takes peers for dead that are well. The kernel counts in seconds, so at the
// default there are 41 rhythms.
func (s *Server) keepAlive() net.KeepAliveConfig {
	idle := s.KeepAlive*2/3 + rand.N(s.KeepAlive*2/3+1)
	return net.KeepAliveConfig{Enable: true, Idle: idle, Interval: idle / 5, Count: 9}
}

// Report says again what the last Apply reported, with what has changed since:
// a listener that could not bind its address may serve by now.
func (s *Server) Report() config.Report {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report()
}

// reserve is a descriptor that is given up to refuse a connection when there
// are no others left.
type reserve struct {
	mu sync.Mutex
	f  *os.File
}

func (r *reserve) open() { r.f, _ = os.Open(os.DevNull) }

func (r *reserve) close() {
	if r.f != nil {
		_ = r.f.Close()
		r.f = nil
	}
}
