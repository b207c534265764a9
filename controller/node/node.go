// SPDX-License-Identifier: Apache-2.0

// Package node is the source of snapshots in a cluster: what the controller
// published, with the endpoints that this node finds itself. It tells the
// controller, in the node's Lease, what of it is served.
//
// It needs to get, list and watch Secrets and Leases in Sluice's own namespace
// and EndpointSlices everywhere, to get its Node, and to create, update and
// delete its Lease in Sluice's own namespace.
//
// The API server may go away at any time: the node goes on with what it has.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/endpoints"
	"github.com/sluice-gateway/sluice/controller/patient"
	"github.com/sluice-gateway/sluice/controller/publication"
)

// Options say which node this is.
type Options struct {
	// Config is how to reach the API server.
	Config *rest.Config
	// Namespace is Sluice's own.
	Namespace string
	// Node is the name of the Node object.
	Node string
	// Identity tells this process from others of the node, for instance by its pod.
	Identity string
	// Addresses are those by which others reach the node.
	Addresses []netip.Addr
	// Holder holds addresses that nodes share; nil holds none.
	Holder Holder
	// Version is the program's.
	Version string
	// Alone is closed when no other process of this node serves any more: only
	// then this one reports, and holds addresses. Nil means from the start.
	Alone <-chan struct{}
	// Log is required.
	Log *slog.Logger
}

// Server is what serves the snapshots: agent.Agent.
type Server interface {
	Apply(*config.Snapshot) config.Report
	Report() config.Report
}

// Source watches the API server on behalf of a node.
type Source struct {
	Options
	client  kubernetes.Interface
	watches *connrotation.Dialer // of client
	parts   parts
	lease   *lease
	peers   peers
	zone    string
	empty   empty

	holding sync.Mutex
	held    []netip.Addr

	reporting sync.WaitGroup // what goes on until Close
	reported  context.CancelFunc

	mu       sync.Mutex
	problems []string
}

// New makes the source. The API server need not be there yet.
func New(o Options) (*Source, error) {
	switch {
	case o.Namespace == "":
		return nil, errors.New("the namespace of Sluice is not known; set -namespace or POD_NAMESPACE")
	case o.Node == "":
		return nil, errors.New("the name of the node is not known; set -node or NODE_NAME")
	}
	client, watches, err := newClient(o.Config)
	if err != nil {
		return nil, err
	}
	// The Lease has connections of its own, as its requests tell when one is dead.
	reporter, reports, err := newClient(o.Config)
	if err != nil {
		return nil, err
	}
	return &Source{Options: o, client: client, watches: watches,
		parts: parts{log: o.Log, decoded: map[string]decoded{}},
		lease: newLease(reporter.CoordinationV1().Leases(o.Namespace), reports, o.Namespace, o.Log),
		peers: peers{self: o.Node, seen: map[string]sighting{}}}, nil
}

// newClient makes a client whose connections can be closed.
func newClient(c *rest.Config) (kubernetes.Interface, *connrotation.Dialer, error) {
	c = rest.CopyConfig(c)
	patient.Watches(c)
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext // as client-go does
	}
	connections := connrotation.NewDialer(dial)
	c.Dial = connections.DialContext
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, nil, fmt.Errorf("client for the API server: %w", err)
	}
	return client, connections, nil
}

const (
	// quiet is how long changes gather before they are served: a rollout
	// changes several objects.
	quiet = 20 * time.Millisecond
	// look is how often the server is asked what became of its listeners: one
	// may find its address free at last.
	look = 500 * time.Millisecond
)

// Run feeds the server until ctx ends and reports what it serves. From then on
// the node says that it is draining, and keeps its addresses, until Close.
func (s *Source) Run(ctx context.Context, to Server) error {
	w := newWatch(s.client, s.Namespace)
	stopped := w.start(ctx)
	defer stopped()
	if !w.wait(ctx, s.Log) {
		return nil
	}
	s.zone = s.findZone(ctx)

	var linkBack <-chan struct{}
	if s.Holder != nil {
		linkBack = s.Holder.Back()
	}
	state := s.serve(w, to)
	var reporting context.Context
	report := func() {
		s.tell(state, to, false)
		s.lease.write(ctx) // who is not known to live holds no address
		reporting, s.reported = context.WithCancel(context.Background())
		s.reporting.Go(func() { s.lease.run(reporting) })
	}
	alone := s.Alone
	if alone == nil {
		report()
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if alone == nil {
			s.tell(state, to, false)
			s.hold(ctx, w, state)
		} else if len(state.addresses) > 0 {
			w.watchNodes() // to know them when it is time
		}
		select {
		case <-alone:
			alone = nil
			report()
		case <-ctx.Done():
			if alone == nil {
				s.drain(reporting, state, to)
			}
			return nil
		case <-w.changed:
			if !pause(ctx, quiet) {
				continue
			}
			w.drain()
			began := time.Now()
			state = s.serve(w, to)
			// A node that is busy with changes takes them in larger steps: half
			// of its time at most.
			pause(ctx, min(time.Since(began), look))
		case <-linkBack:
			// Connections that lost packets meanwhile would wait for seconds still.
			s.watches.CloseAll()
			s.lease.redial()
		case <-s.lease.back:
		case <-tick.C:
		}
	}
}

// drain reports that the node is draining until Close.
func (s *Source) drain(ctx context.Context, state served, to Server) {
	s.tell(state, to, true)
	s.reporting.Go(func() {
		for pause(ctx, look) {
			s.holding.Lock()
			s.leave()
			s.holding.Unlock()
		}
	})
}

// tell makes the present state what there is to report.
func (s *Source) tell(state served, to Server, draining bool) {
	s.holding.Lock()
	defer s.holding.Unlock()
	n := s.node(state, to)
	n.Draining = draining
	s.lease.tell(n)
}

// HandOver leaves the node's Lease and addresses to another process, which has
// taken over. It may be called at any time.
func (s *Source) HandOver() {
	s.lease.leave()
	s.holding.Lock()
	defer s.holding.Unlock()
	if s.Holder != nil {
		s.Holder.Keep()
	}
	s.leave()
}

// Close tells the others, after Run and when everything is drained, that this
// node serves nothing any more, and lets go of its addresses. A younger process
// of the node that has taken over is left alone.
func (s *Source) Close() {
	if s.reported == nil {
		return
	}
	s.reported()
	s.reporting.Wait()
	defer s.watches.CloseAll()
	defer s.lease.connections.CloseAll()
	if s.lease.superseded() {
		return
	}
	if len(s.held) > 0 {
		s.Holder.Set(nil)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	s.lease.remove(ctx)
}

// token puts a token into a channel that holds one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pause waits, and tells whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// findZone asks for the zone of the node. It only makes paths shorter, so
// without an answer there is none.
func (s *Source) findZone(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	n, err := s.client.CoreV1().Nodes().Get(ctx, s.Node, metav1.GetOptions{})
	if err != nil {
		s.Log.Warn("zone of the node is not known; endpoints of the same zone are not preferred", "node", s.Node, "error", err)
		return ""
	}
	return n.Labels["topology.kubernetes.io/zone"]
}

// served is what the server was given last.
type served struct {
	version uint64
	left    map[string]string // listeners left out, with the reason
	stale   map[string]string // Gateways served as they were, with the reason
	empty   map[string]string // backends without endpoints, with the reason

	addresses []netip.Addr // that one node at a time holds
}

// serve brings the server in line with what is published now.
func (s *Source) serve(w *watch, to Server) served {
	secrets := w.secrets()
	state := served{}
	for _, o := range secrets {
		state.version = max(state.version, publication.Version(o))
	}
	parts, stale := s.parts.read(secrets)
	state.stale = stale
	joined, left := config.Join(parts)
	state.left, state.addresses = left, joined.Addresses
	state.empty = resolve(joined, w.slices, endpoints.Place{Node: s.Node, Zone: s.zone})
	to.Apply(joined)
	s.keep(state)
	return state
}

// node is what there is to report.
func (s *Source) node(state served, of Server) publication.Node {
	failures := maps.Clone(state.left)
	for name, problem := range of.Report().Listeners {
		if problem != "" {
			failures[name] = problem
		}
	}
	n := publication.Node{Name: s.Node, Holder: s.Identity, Version: s.Version, Addresses: s.Addresses,
		Serves: state.version, Failures: failures, Stale: state.stale, Empty: s.empty.lasting(state.empty, time.Now()), Lasts: lasts}
	if len(state.addresses) > 0 && s.Holder != nil {
		missing := s.Holder.Missing()
		held := slices.DeleteFunc(slices.Clone(s.held), func(a netip.Addr) bool { return missing[a] != nil })
		n.Lasts, n.Held, n.Unheld = lastsHolding, held, s.unheld()
	}
	return n
}

func (s *Source) keep(state served) {
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(state.stale)) {
		problems = append(problems, fmt.Sprintf("Gateway %s is served as it was: %s", name, state.stale[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(state.left)) {
		problems = append(problems, fmt.Sprintf("listener %s is not served: %s", name, state.left[name]))
	}
	for _, why := range slices.Compact(slices.Sorted(maps.Values(state.empty))) {
		problems = append(problems, why+"; what comes for it is refused")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(s.problems, p) {
			s.Log.Warn("problem", "problem", p)
		}
	}
	for _, p := range s.problems {
		if !slices.Contains(problems, p) {
			s.Log.Info("problem is gone", "problem", p)
		}
	}
	s.problems = problems
}

// Problems lists what keeps published Gateways from being served as they are.
func (s *Source) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// newest orders Secrets by their last change, the latest first.
func newest(a, b publishedPart) int { return cmp.Compare(b.version, a.version) }
