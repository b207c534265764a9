// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller"
	"github.com/sluice-gateway/sluice/controller/node"
	"github.com/sluice-gateway/sluice/controller/publication"
)

// runner is a controller that runs.
type runner struct {
	stop func() // ends it, once or more often
}

// start starts a controller with the rights of its ServiceAccount. What it
// writes is recorded in by.
func (w *world) start(identity string, by *writes) *runner {
	w.Helper()
	config, err := server.ServiceAccount(w.Context(), system, "sluice-controller")
	w.must(err)
	return w.run(identity, config, by)
}

// startBehindLink is start with a way to the API server that can be cut.
func (w *world) startBehindLink(identity string, by *writes) (*runner, *link) {
	w.Helper()
	config, err := server.ServiceAccount(w.Context(), system, "sluice-controller")
	w.must(err)
	l := newLink(w, strings.TrimPrefix(config.Host, "https://"))
	w.Cleanup(l.close) // after the controller's end
	config.Host = "https://" + l.listener.Addr().String()
	r := w.run(identity, config, by)
	w.Cleanup(func() { l.mend() }) // before it
	return r, l
}

func (w *world) run(identity string, config *rest.Config, by *writes) *runner {
	w.Helper()
	return w.runs(w.controller(identity, config, by))
}

func (w *world) controller(identity string, config *rest.Config, by *writes) *controller.Controller {
	w.Helper()
	if by != nil {
		by.of(config, identity)
	}
	c, err := controller.New(controller.Options{Config: config, Namespace: system, Identity: identity, Log: w.logger(identity)})
	w.must(err)
	return c
}

func (w *world) runs(c *controller.Controller) *runner {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	r := &runner{stop: sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Error(err)
		}
	})}
	w.Cleanup(r.stop)
	return r
}

// link is a way to the API server that can be cut: nothing passes, and nobody
// is told.
type link struct {
	listener net.Listener
	to       string
	gate     sync.RWMutex
	mend     func() // what cut did
	group    sync.WaitGroup

	mu     sync.Mutex
	open   []net.Conn
	closed bool
}

func newLink(w *world, to string) *link {
	w.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	l := &link{listener: listener, to: to, mend: func() {}}
	l.group.Go(l.accept)
	return l
}

func (l *link) cut() {
	l.gate.Lock()
	l.mend = sync.OnceFunc(l.gate.Unlock)
}

func (l *link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("tcp", l.to)
		if err != nil {
			c.Close()
			continue
		}
		l.mu.Lock()
		l.open = append(l.open, c, b)
		if l.closed {
			c.Close()
			b.Close()
		}
		l.mu.Unlock()
		l.group.Go(func() { l.copy(c, b) })
		l.group.Go(func() { l.copy(b, c) })
	}
}

func (l *link) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	for buf := make([]byte, 32<<10); ; {
		n, err := from.Read(buf)
		l.gate.RLock()
		l.gate.RUnlock() //nolint:staticcheck // to pass the gate is all
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (l *link) close() {
	l.mend()
	l.listener.Close()
	l.mu.Lock()
	l.closed = true
	for _, c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.group.Wait()
}

// writes are what controllers wrote, in the order in which it was done.
type writes struct {
	mu   sync.Mutex
	done []write
}

type write struct {
	sent, done       time.Time
	by, method, path string
}

func (w write) String() string {
	return fmt.Sprintf("\n%s-%s %s %s %s", w.sent.Format("05.000"), w.done.Format("05.000"), w.by, w.method, w.path)
}

// of records what a controller writes, but for Events and its Lease: those are
// told by all. What it asks of its rights is posted, and writes nothing.
func (ws *writes) of(c *rest.Config, by string) {
	c.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip{next, func(r *http.Request) (*http.Response, error) {
			sent := time.Now()
			resp, err := next.RoundTrip(r)
			written := err == nil && resp.StatusCode < 300 && r.Method != http.MethodGet &&
				!strings.Contains(r.URL.Path, "/events") && !strings.Contains(r.URL.Path, "/leases") &&
				!strings.HasPrefix(r.URL.Path, "/apis/authorization.k8s.io/")
			if written {
				ws.mu.Lock()
				defer ws.mu.Unlock()
				ws.done = append(ws.done, write{sent, time.Now(), by, r.Method, r.URL.Path})
			}
			return resp, err
		}}
	})
}

func (ws *writes) all() []write {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.Clone(ws.done)
}

// writers are the controllers that wrote, without repetition in a row.
func (ws *writes) writers() []string {
	var out []string
	for _, w := range ws.all() {
		out = append(out, w.by)
	}
	return slices.Compact(out)
}

type roundTrip struct {
	next http.RoundTripper
	do   func(*http.Request) (*http.Response, error)
}

func (t roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return t.do(r) }

// WrappedRoundTripper is how client-go finds out how to cancel requests.
func (t roundTrip) WrappedRoundTripper() http.RoundTripper { return t.next }

// agent is a node that serves all that is published, but for what fails.
type agent struct {
	stop func()

	mu       sync.Mutex
	applied  *config.Snapshot
	failures map[string]string
}

// node starts the agent of a node, with the rights of its pod.
func (w *world) node(name string, addresses ...string) *agent {
	w.Helper()
	c, err := server.Pod(w.Context(), system, "sluice-agent", name)
	w.must(err)
	var ips []netip.Addr
	for _, a := range addresses {
		ips = append(ips, netip.MustParseAddr(a))
	}
	s, err := node.New(node.Options{Config: c, Namespace: system, Node: name, Identity: name + "-1", Addresses: ips, Version: "test", Log: w.logger(name)})
	w.must(err)
	a := &agent{failures: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, a) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		err := <-ended
		s.Close()
		if err != nil && !errors.Is(err, context.Canceled) {
			w.Error(err)
		}
	})
	w.Cleanup(a.stop)
	return a
}

func (a *agent) Apply(s *config.Snapshot) config.Report {
	a.mu.Lock()
	a.applied = s
	a.mu.Unlock()
	return a.Report()
}

func (a *agent) Report() config.Report {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := config.Report{Listeners: map[string]string{}}
	for _, l := range a.applied.Listeners {
		out.Listeners[l.Name] = a.failures[l.Name]
	}
	return out
}

// chain is that of the first certificate, "" without one.
func (a *agent) chain() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.applied == nil || len(a.applied.Certificates) == 0 {
		return ""
	}
	return string(a.applied.Certificates[0].Chain)
}

// fail makes a listener fail, "" makes it work.
func (a *agent) fail(listener, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failures[listener] = why
}

// lease reports for a node without an agent, once.
func (w *world) lease(node, address string, lasts time.Duration) {
	w.Helper()
	l, err := publication.EncodeNode(system, publication.Node{Name: node, Holder: node, Renewed: time.Now(), Lasts: lasts, Serves: 1 << 62,
		Addresses: []netip.Addr{netip.MustParseAddr(address)}})
	w.must(err)
	w.must(root.Create(w.Context(), l))
}
