// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/address"
)

// Nodes are namespaces on a switch, each with an agent as the DaemonSet runs
// it; the API server is real. Clients never wait for a neighbor cache.
func TestAddressesMoveWithTheLivesOfNodes(t *testing.T) {
	c := newCluster(t, "a", "b")
	a, b := c.nodes["a"], c.nodes["b"]
	a.start()
	b.start()
	both := []string{"a", "b"}
	c.settles(both)
	ofA, ofB := c.assigned(both, "a"), c.assigned(both, "b")
	if len(ofA) < 2 || len(ofB) < 2 {
		t.Fatalf("the addresses do not spread: %v on a, %v on b", ofA, ofB)
	}

	t.Run("a node's link is cut", func(t *testing.T) {
		kept := c.open(t, ofB[0])
		a.cut()
		c.measure(t, ofA)
		if diff := cmp.Diff(c.pool, b.held(), byText); diff != "" {
			t.Errorf("b, which is left: %s", diff)
		}
		if diff := cmp.Diff(ofA, a.held(), byText); diff != "" {
			t.Errorf("a, which cannot know better: %s", diff)
		}
		a.mend()
		c.settles(both)
		kept.finish()
	})
	t.Run("a node cannot reach the API server", func(t *testing.T) {
		a.api.cut()
		eventually(t, "b holds all", func() bool { return slices.Equal(b.held(), c.pool) })
		// Both have the addresses of a now. A connection lives through this only
		// when it begins after the client has heard of b.
		c.knows(c.pool, b)
		c.serves()
		a.api.mend()
		c.settles(both)
	})
	t.Run("an agent is killed", func(t *testing.T) {
		kept := c.open(t, ofB[0])
		a.signal(syscall.SIGKILL)
		c.measure(t, ofA)
		eventually(t, "a has no address left", func() bool { return len(a.held()) == 0 })
		c.settles([]string{"b"})
		a.start()
		c.settles(both)
		kept.finish()
	})
	t.Run("an agent is killed and starts at once", func(t *testing.T) {
		a.signal(syscall.SIGKILL)
		a.start()
		c.measure(t, ofA)
		c.settles(both)
		// What the agent before it held is not the node's own.
		own := []netip.Addr{netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("fd77::2")}
		if diff := cmp.Diff(own, c.report("a").Addresses, byText); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("an agent ends", func(t *testing.T) {
		kept := c.open(t, ofB[0])
		a.signal(syscall.SIGTERM)
		if got := a.held(); len(got) > 0 {
			t.Errorf("a has ended, and %v are left", got)
		}
		c.settles([]string{"b"})
		a.start()
		c.settles(both)
		kept.finish()
	})
	t.Run("an agent is replaced", func(t *testing.T) {
		kept := c.open(t, ofA[0])
		old, ended, holder := a.cmd, a.exited, c.report("a").Holder
		stay := func() {
			if diff := cmp.Diff(ofA, a.held(), byText); diff != "" {
				t.Fatalf("addresses moved: %s", diff)
			}
			c.open(t, ofA[0]).finish()
		}
		a.start()
		eventually(t, "the new one reports", func() bool { stay(); return c.report("a").Holder != holder })
		// Longer than an address that nobody renews.
		for end := time.Now().Add(16 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			stay()
		}
		kept.finish()
		if err := old.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-ended
		stay()
		c.settles(both)
	})
	t.Run("the API server goes away", func(t *testing.T) {
		kept := map[netip.Addr]*connection{}
		for _, addr := range c.pool {
			kept[addr] = c.open(t, addr)
		}
		// Longer than a Lease lasts, and than an address that nobody renews.
		const gone, back = 8 * time.Second, 5 * time.Second
		stays := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				if diff := cmp.Diff([][]netip.Addr{ofA, ofB}, [][]netip.Addr{a.held(), b.held()}, byText); diff != "" {
					t.Fatalf("addresses moved: %s", diff)
				}
			}
			c.serves()
		}
		if err := c.api.Stop(); err != nil {
			t.Fatal(err)
		}
		stays(gone)
		if err := c.api.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		stays(back)
		if err := c.api.Pause(); err != nil {
			t.Fatal(err)
		}
		stays(gone)
		if err := c.api.Resume(); err != nil {
			t.Fatal(err)
		}
		stays(back)
		for _, k := range kept {
			k.finish()
		}
	})
	t.Run("a node dies while the API server is away", func(t *testing.T) {
		kept := c.open(t, ofB[0])
		if err := c.api.Stop(); err != nil {
			t.Fatal(err)
		}
		a.cut()
		a.signal(syscall.SIGKILL)
		if err := c.api.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.measure(t, ofA)
		c.settles([]string{"b"})
		kept.finish()
	})
}

var byText = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// assigned are the addresses of one of some live nodes, sorted.
func (c *cluster) assigned(live []string, node string) []netip.Addr {
	holders := address.Assign(c.pool, live)
	maps.DeleteFunc(holders, func(_ netip.Addr, of string) bool { return of != node })
	return slices.SortedFunc(maps.Keys(holders), netip.Addr.Compare)
}

// settles waits until the addresses are where they belong, and the client knows
// it, and wants them to serve.
func (c *cluster) settles(live []string) {
	c.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(c.nodes)) {
		n, want := c.nodes[name], c.assigned(live, name)
		eventually(c.t, "node "+name+" holds its own", func() bool { return slices.Equal(n.held(), want) })
	}
	c.serves()
	for a, holder := range address.Assign(c.pool, live) {
		c.knows([]netip.Addr{a}, c.nodes[holder])
	}
	c.serves()
}

// knows waits until the client has addresses at a node.
func (c *cluster) knows(addresses []netip.Addr, n *clusterNode) {
	c.t.Helper()
	for _, a := range addresses {
		eventually(c.t, "the client knows where "+a.String()+" is", func() bool { return c.outside.neighbor(a) == n.mac })
	}
}

// serves wants every address to serve.
func (c *cluster) serves() {
	c.t.Helper()
	for _, a := range c.pool {
		c.open(c.t, a).finish()
	}
}

// measure waits until addresses of a node that is gone serve, and tells how
// long that takes.
func (c *cluster) measure(t *testing.T, addresses []netip.Addr) {
	t.Helper()
	began := time.Now()
	for _, a := range addresses {
		eventually(t, a.String()+" serves", func() bool {
			conn, err := c.try(a, 200*time.Millisecond)
			if err != nil {
				return false
			}
			conn.finish()
			return true
		})
		t.Logf("%s serves after %s", a, time.Since(began).Round(10*time.Millisecond))
	}
}
