// SPDX-License-Identifier: Apache-2.0

package address

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Nodes of different versions must agree for ever.
func TestTheChoiceIsTheSameInEveryVersion(t *testing.T) {
	var addresses []netip.Addr
	for _, a := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", "2001:db8::3"} {
		addresses = append(addresses, netip.MustParseAddr(a))
	}
	got := map[string]string{}
	for a, node := range Assign(addresses, []string{"node-a", "node-b", "node-c"}) {
		got[a.String()] = node
	}
	// sha256 of "ADDRESS NODE", the largest first 8 bytes (computed elsewhere).
	want := map[string]string{
		"192.0.2.1":   "node-a",
		"192.0.2.2":   "node-c",
		"192.0.2.3":   "node-c",
		"2001:db8::1": "node-b",
		"2001:db8::2": "node-c",
		"2001:db8::3": "node-c",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutLiveNodesNobodyHoldsAnAddress(t *testing.T) {
	if got := Assign([]netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil); len(got) != 0 {
		t.Error(got)
	}
}

func TestANodeThatDiesMovesOnlyItsAddresses(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 0))
		nodes, addresses := stage(2+random.IntN(20), 500)
		before := Assign(addresses, nodes)
		i := random.IntN(len(nodes))
		dead := nodes[i]
		rest := append(nodes[:i:i], nodes[i+1:]...)
		random.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
		after := Assign(addresses, rest)
		for _, a := range addresses {
			if before[a] == dead && after[a] == dead {
				t.Errorf("seed %d: %s stays with %s, which is dead", seed, a, dead)
			}
			if before[a] != dead && after[a] != before[a] {
				t.Errorf("seed %d: %s moves from %s to %s, though %s died", seed, a, before[a], after[a], dead)
			}
		}
		// It comes back, in another place of the list.
		if diff := cmp.Diff(before, Assign(addresses, append(rest, dead)), byText); diff != "" {
			t.Errorf("seed %d: not as before: %s", seed, diff)
		}
	}
}

// 10,000 addresses on 10 nodes: 1,000 each, with a standard deviation of 30.
func TestAddressesSpreadEvenly(t *testing.T) {
	nodes, addresses := stage(10, 10000)
	count := map[string]int{}
	for _, node := range Assign(addresses, nodes) {
		count[node]++
	}
	for node, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("%s holds %d of 10000, want about 1000", node, n)
		}
	}
	if len(count) != len(nodes) {
		t.Errorf("%d nodes hold addresses, want %d", len(count), len(nodes))
	}
}

var byText = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// stage makes nodes and addresses, IPv4 and IPv6, with names as people give
// them: nearly the same.
func stage(nodes, addresses int) (names []string, out []netip.Addr) {
	for i := range nodes {
		names = append(names, fmt.Sprintf("worker-%d.example.com", i))
	}
	v4, v6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	for range addresses / 2 {
		out = append(out, v4, v6)
		v4, v6 = v4.Next(), v6.Next()
	}
	return names, out
}
