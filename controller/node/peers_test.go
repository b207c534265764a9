// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/sluice-gateway/sluice/agent/config"
)

// held is a holder that keeps what it is given.
type held struct {
	mu        sync.Mutex
	addresses []netip.Addr
	announced int
	left      bool
	back      chan struct{} // of its link
}

func (h *held) Set(a []netip.Addr) map[netip.Addr]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addresses = slices.Clone(a)
	return h.failures()
}

func (h *held) Failures() map[netip.Addr]error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failures()
}

func (h *held) Missing() map[netip.Addr]error { return h.Failures() }

// failures: the first address is one that can be held nowhere.
func (h *held) failures() map[netip.Addr]error {
	if slices.Contains(h.addresses, pool[0]) {
		return map[netip.Addr]error{pool[0]: errors.New("no link leads there")}
	}
	return nil
}

func (h *held) Announce() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.announced++
}

func (h *held) Back() <-chan struct{} { return h.back }

func (h *held) Keep() {}

func (h *held) Leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = true
}

func (h *held) now() []netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.addresses)
}

var pool = func() (out []netip.Addr) {
	for i := range byte(20) {
		out = append(out, netip.AddrFrom4([4]byte{192, 0, 2, 100 + i}))
	}
	return out
}()

// withPool is a part with a listener on every address of the pool.
func withPool(p *config.Snapshot) *config.Snapshot {
	p.Listeners[0].Addresses, p.Addresses = pool, pool
	return p
}

// cut is a line to the API server that can be cut: requests fail.
type cut struct{ off atomic.Bool }

func (c *cut) wrap(config *rest.Config) *rest.Config {
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if c.off.Load() {
				return nil, errors.New("the line is cut")
			}
			return next.RoundTrip(r)
		})
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// together tells whether the nodes hold the whole pool, each address once.
func together(nodes ...*held) bool {
	count := map[netip.Addr]int{}
	for _, n := range nodes {
		for _, a := range n.now() {
			count[a]++
		}
	}
	return len(count) == len(pool) && !slices.ContainsFunc(slices.Collect(maps.Values(count)), func(n int) bool { return n != 1 })
}

func TestNodesShareAddressesAndTakeOverFromTheDead(t *testing.T) {
	w := newWorld(t)
	w.publish("shop/gw", withPool(w.part("shop/gw", 6379)))
	var a, b held
	var line cut
	w.startNode("n1", "a", api.Config(), &a)
	w.startNode("n2", "b", line.wrap(api.Config()), &b)
	w.until("both to share the addresses", func() bool { return together(&a, &b) && len(a.now()) > 0 && len(b.now()) > 0 })
	share := b.now()

	// A node that the API server does not reach is dead to the others. It cannot
	// know whether they live, and keeps what it has.
	line.off.Store(true)
	w.until("the other to take over", func() bool { return together(&a) })
	if !slices.Equal(b.now(), share) {
		t.Errorf("the node that is cut off holds %v, want what it held", b.now())
	}
	line.off.Store(false)
	w.until("the node to be back and to have its share", func() bool { return together(&a, &b) && slices.Equal(b.now(), share) })
	w.until("it to say where its addresses are", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.announced > 0 })

	w.until("a failure in the report", func() bool {
		return w.reportOf("n1").Unheld[pool[0].String()] == "no link leads there" || w.reportOf("n2").Unheld[pool[0].String()] == "no link leads there"
	})
}

func TestNoAddressMovesWhileNobodyReachesTheAPIServer(t *testing.T) {
	w := newWorld(t)
	w.publish("shop/gw", withPool(w.part("shop/gw", 6379)))
	var a, b held
	w.startNode("n1", "a", api.Config(), &a)
	w.startNode("n2", "b", api.Config(), &b)
	w.until("both to share the addresses", func() bool { return together(&a, &b) && len(a.now()) > 0 && len(b.now()) > 0 })
	ofA, ofB := a.now(), b.now()
	if err := api.Stop(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if !slices.Equal(a.now(), ofA) || !slices.Equal(b.now(), ofB) {
			t.Fatalf("addresses moved: %v and %v", a.now(), b.now())
		}
	}
	if err := api.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if !together(&a, &b) {
			t.Fatalf("addresses moved when the API server came back: %v and %v", a.now(), b.now())
		}
	}
}

func TestANodeThatEndsLeavesItsAddressesToTheOthers(t *testing.T) {
	w := newWorld(t)
	w.publish("shop/gw", withPool(w.part("shop/gw", 6379)))
	var a, b held
	w.startNode("n1", "a", api.Config(), &a)
	w.startNode("n2", "b", api.Config(), &b)
	w.until("both to share the addresses", func() bool { return together(&a, &b) && len(a.now()) > 0 && len(b.now()) > 0 })
	share := b.now()
	w.end()
	w.until("the node to be draining", func() bool { return w.reportOf("n2").Draining })
	if !slices.Equal(b.now(), share) {
		t.Errorf("a node that drains holds %v, want what it held: its connections go on", b.now())
	}
	w.source.Close()
	if len(b.now()) > 0 {
		t.Errorf("a node that has ended holds %v", b.now())
	}
	w.until("the other to take over", func() bool { return together(&a) })
}

// Else the two would undo each other's work when an address moves.
func TestAnAgentLeavesTheAddressesToTheYoungerOneOfItsNode(t *testing.T) {
	for name, draining := range map[string]bool{"while it serves": false, "while it drains": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.publish("shop/gw", withPool(w.part("shop/gw", 6379)))
			var old, young held
			w.startNode("n1", "old", api.Config(), &old)
			w.until("the old one to hold all", func() bool { return together(&old) })
			if draining {
				w.end()
			}
			w.startNode("n1", "young", api.Config(), &young)
			w.until("the young one to hold all", func() bool { return together(&young) })
			w.until("the old one to leave them", func() bool { old.mu.Lock(); defer old.mu.Unlock(); return old.left })
			if young.left || len(old.now()) != len(pool) {
				t.Errorf("the young one has left: %v; the old one lets go: %v is left", young.left, old.now())
			}
		})
	}
}
