// SPDX-License-Identifier: Apache-2.0

// Package agent runs a node: it applies snapshots to the terminator and the
// splice, resolves the names of endpoints, serves metrics, health and the
// admin socket, and shuts all of it down in order.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/desk"
	"github.com/sluice-gateway/sluice/agent/handover"
	"github.com/sluice-gateway/sluice/agent/splice"
	"github.com/sluice-gateway/sluice/agent/udp"
	"github.com/sluice-gateway/sluice/terminator"
)

// Options say how a node runs.
type Options struct {
	// Version is what the metrics and the status call this program.
	Version string
	// Instance tells this agent from others that the machine has in the course of
	// time: the name of its pod, "" where there is none.
	Instance string
	// Admin is the path of the admin socket, "" for none. Its file mode, 0600,
	// is the access control.
	Admin string
	// Metrics is the TCP address of /metrics, /healthz and /readyz, "" for none.
	Metrics string
	// TakeOver takes over from an agent that answers on the admin socket: its
	// listening sockets, then everything else that only one agent can have. Without
	// it that agent is an error.
	TakeOver bool
	// HandedOver optionally is called when a successor has taken over from this
	// agent. It leaves to it what the agent does not know of, before it returns.
	HandedOver func()
	// Splice says how to load the kernel half; nil relays everything.
	Splice *splice.Options
	// Tenants says that whoever writes endpoints may not use this machine: names may
	// not lead to the machine itself or its link, where addresses of EndpointSlices
	// may not lead either.
	Tenants bool
	// Server is the terminator to run; the agent sets its Dial, Full and Metrics.
	Server *terminator.Server
	// Resources optionally tells what the source of the snapshots says about
	// them, for the status, and how many problems it sees, for the metrics.
	Resources func() (status any, problems int)
	// Routes optionally tells what became of the routes that the source has.
	Routes func() any
	// Page optionally shows the node to people, on the admin socket.
	Page func(*Agent) http.Handler
	// Collectors are further metrics: of the source, of what else the node has.
	Collectors []prometheus.Collector
	// Log is required.
	Log *slog.Logger
}

// Agent runs a node. New makes it, Run ends it.
type Agent struct {
	opts     Options
	started  time.Time
	resolver *resolver
	registry *prometheus.Registry
	memory   *memory

	snapshots *prometheus.CounterVec // result

	udp       *udp.Forwarder
	splicer   *splice.Splicer // nil in relay mode
	spliceErr error
	splice    SpliceStatus

	admin, metrics net.Listener
	servers        []*http.Server // on them

	before *handover.Offer // what the agent before this one has handed over, or nil
	served chan struct{}   // closed with the first snapshot
	alone  chan struct{}   // closed when there is no agent before this one, or it has left
	rest   atomic.Pointer[handover.Rest]

	handing   sync.Mutex // to a successor: held from its asking until all has ended
	successor atomic.Pointer[net.UnixConn]
	left      atomic.Bool // to it

	mu      sync.Mutex // one Apply at a time
	current atomic.Pointer[applied]
	ending  atomic.Bool
}

// applied is what is served.
type applied struct {
	snapshot     *config.Snapshot
	hash         string
	at           time.Time
	certificates []CertificateStatus
}

// New opens what the node needs: the splice, or the reason why there is none,
// the admin socket and the metrics port. Nothing is served before Run.
//
// It fails when a socket cannot be opened; a splice that cannot is no failure.
// Whoever gets an Agent must Run it, which closes what New opened.
func New(opts Options) (_ *Agent, err error) {
	a := &Agent{opts: opts, started: time.Now(), resolver: newResolver(opts.Log), udp: udp.New(opts.Log), registry: prometheus.NewPedanticRegistry(), snapshots: newSnapshots(),
		memory: newMemory(), served: make(chan struct{}), alone: make(chan struct{})}
	a.resolver.tenants = opts.Tenants
	a.udp.FreeBind = opts.Server.FreeBind
	if opts.Server.Metrics == nil {
		opts.Server.Metrics = terminator.NewMetrics()
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if opts.TakeOver && opts.Admin != "" {
		if a.before, err = ask(opts.Admin); err != nil {
			return nil, err
		}
	}
	if a.before != nil {
		if err := a.inherit(); err != nil {
			return nil, err
		}
	} else {
		close(a.alone)
		if opts.Admin != "" {
			if a.admin, err = listenAdmin(opts.Admin); err != nil {
				return nil, err
			}
		}
	}
	if opts.Metrics != "" && a.metrics == nil {
		if a.metrics, err = net.Listen("tcp", opts.Metrics); err != nil {
			return nil, fmt.Errorf("listen for metrics on %s: %s; choose another address with -metrics", opts.Metrics, errno(err))
		}
	}
	a.openSplice()
	opts.Server.RelayReason = a.splice.Reason
	opts.Server.Full = a.memory.full
	a.register()
	return a, nil
}

// close closes what New opened.
func (a *Agent) close() error {
	var errs []error
	for _, l := range []net.Listener{a.admin, a.metrics} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if a.before != nil {
		a.before.Close()
	}
	if a.splicer != nil {
		errs = append(errs, a.splicer.Close())
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends, then drains: /readyz says so at once, no
// connection is accepted any more once the server's Linger is over, open ones may
// finish within its drain timeout; UDP is served meanwhile. Metrics and the admin
// socket answer until the end; the splice is closed last. Snapshots may be applied
// before and during Run.
//
// When a successor takes over, the same goes for what it has not taken: Run goes
// on until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	resolving, stopResolving := context.WithCancel(context.WithoutCancel(ctx))
	defer stopResolving()
	var wg sync.WaitGroup
	wg.Go(func() { a.keepResolving(resolving) })
	wg.Go(func() { a.memory.tend(resolving) })
	var udpErr error
	wg.Go(func() { udpErr = a.udp.Run(resolving) })
	a.servers = []*http.Server{desk.New(a.adminHandler(), a.opts.Log), desk.New(a.metricsHandler(), a.opts.Log)}
	wg.Go(func() {
		if !a.takeOver(ctx) {
			return
		}
		for i, l := range []net.Listener{a.admin, a.metrics} {
			if l != nil {
				wg.Go(func() { a.serve(a.servers[i], l) })
			}
		}
		if a.before != nil {
			a.followRest(ctx)
		}
	})
	// Nobody may find a listener gone of an agent that does not say that it ends.
	serving, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	unregister := context.AfterFunc(ctx, func() {
		a.ending.Store(true)
		leave()
	})
	defer unregister()

	err := a.opts.Server.Run(serving)

	a.ending.Store(true)
	stopResolving()
	if c := a.successor.Load(); c != nil && !a.left.Load() {
		_ = c.Close() // too late
	}
	a.handing.Lock() // for good
	for _, s := range a.servers {
		_ = s.Close()
	}
	wg.Wait()
	return errors.Join(err, udpErr, a.close())
}

// serve answers HTTP on l until the server is closed, or l left to a successor.
func (a *Agent) serve(s *http.Server, l net.Listener) {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) && !a.left.Load() {
		a.opts.Log.Error("stopped answering", "address", l.Addr(), "error", err)
	}
}

// Apply makes the node serve s and tells how that went, listener by listener.
// What s has in common with the snapshot before goes on undisturbed. A
// snapshot that does not validate changes nothing: the report then gives the
// cause for every listener.
//
// Domain names of endpoints that were not known yet are looked up first, which
// takes 2 seconds at most. s must not be changed afterwards.
func (a *Agent) Apply(s *config.Snapshot) config.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := s.Validate(); err != nil {
		a.opts.Log.Error("snapshot is not valid, the one before stays", "error", err)
		a.snapshots.WithLabelValues("invalid").Inc()
		report := config.Report{Hash: s.Hash(), Listeners: map[string]string{}}
		for _, l := range s.Listeners {
			report.Listeners[l.Name] = err.Error()
		}
		return report
	}
	a.resolver.learn(context.Background(), s)
	a.snapshots.WithLabelValues("applied").Inc()
	return a.publish(s)
}

// publish brings the node in line with s and with the addresses that are known
// of its names. The caller holds mu.
func (a *Agent) publish(s *config.Snapshot) config.Report {
	tcp, datagrams := a.resolver.apply(s).ByTransport()
	// The kernel must know an endpoint before the first connection to it.
	if a.splicer != nil {
		if err := a.splicer.SetEndpoints(endpoints(tcp)); err != nil {
			a.opts.Log.Error("endpoints are not all known to the splice, theirs are relayed", "error", err)
		}
	}
	report := a.opts.Server.Apply(tcp)
	if a.isAlone() { // the kernel has one table for UDP
		maps.Copy(report.Listeners, a.udp.Apply(datagrams))
	}
	report.Hash = s.Hash()
	if a.current.Swap(&applied{snapshot: s, hash: report.Hash, at: time.Now(), certificates: Describe(s)}) == nil {
		close(a.served)
	}
	return report
}

// Report says again what the last Apply reported, with what has changed since:
// a listener that could not bind its address may serve by now.
func (a *Agent) Report() config.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.current.Load()
	if c == nil {
		return config.Report{}
	}
	report := a.opts.Server.Report()
	maps.Copy(report.Listeners, a.udp.Report())
	report.Hash = c.hash // the terminator saw addresses where c has names
	return report
}

// keepResolving asks for the names of the current snapshot again and again.
func (a *Agent) keepResolving(ctx context.Context) {
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(resolveRetry):
		}
		if time.Since(last) < resolveEvery && !a.resolver.pending() {
			continue
		}
		last = time.Now()
		if a.resolver.refresh(ctx) {
			a.mu.Lock()
			a.publish(a.current.Load().snapshot) // a name has come with a snapshot
			a.mu.Unlock()
		}
	}
}

// Connections are the open client connections, oldest first.
func (a *Agent) Connections() []terminator.Connection { return a.opts.Server.Connections() }
