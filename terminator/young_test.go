// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Who makes room is the oldest of a place from which nobody has more in handshakes,
// whatever came and went before.
func TestTheLargestCrowdMakesRoom(t *testing.T) {
	var y young
	var all []*connection // oldest first
	from := map[*connection]byte{}
	count := map[byte]int{}
	r := rand.New(rand.NewPCG(1, 2))
	forget := func(c *connection) {
		y.remove(c)
		y.remove(c) // which does nothing
		all = slices.DeleteFunc(all, func(other *connection) bool { return other == c })
		if count[from[c]]--; count[from[c]] == 0 {
			delete(count, from[c])
		}
	}
	if y.oldest() != nil {
		t.Fatal("nobody is there, and somebody makes room")
	}
	for range 10_000 {
		switch n := r.IntN(8); {
		case n < 4:
			c := &connection{}
			network := byte(r.IntN(1 + r.IntN(20))) // more of some than of others
			y.add(c, at(network, byte(r.IntN(256))))
			all = append(all, c)
			from[c] = network
			count[network]++
		case len(all) == 0:
		case n < 6:
			forget(all[r.IntN(len(all))])
		default:
			c := y.oldest()
			for network, n := range count {
				if n > count[from[c]] {
					t.Fatalf("one of %d makes room, and there are %d of network %d", count[from[c]], n, network)
				}
			}
			if i := slices.IndexFunc(all, func(other *connection) bool { return from[other] == from[c] }); all[i] != c {
				t.Fatal("one makes room that is not the oldest of its network")
			}
			forget(c)
		}
		if len(y.crowds) != len(count) || len(y.byPlace) != len(count) {
			t.Fatalf("%d crowds and %d places, want %d", len(y.crowds), len(y.byPlace), len(count))
		}
	}
}
