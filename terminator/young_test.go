// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Who makes room is the oldest of all, or of the largest crowd where that is large,
// whatever came and went before.
func TestTheLargestCrowdMakesRoom(t *testing.T) {
	var y young
	var all []*connection // oldest first
	from := map[*connection]byte{}
	count := map[byte]int{}
	eldest, crowded := 0, 0
	r := rand.New(rand.NewPCG(1, 2))
	forget := func(c *connection) {
		y.remove(c)
		y.remove(c) // which does nothing
		all = slices.DeleteFunc(all, func(other *connection) bool { return other == c })
		if count[from[c]]--; count[from[c]] == 0 {
			delete(count, from[c])
		}
	}
	if y.first() != nil {
		t.Fatal("nobody is there, and somebody makes room")
	}
	for i := range 10_000 {
		switch n := r.IntN(8); {
		case n < 4:
			c := &connection{}
			network := byte(r.IntN(1 + r.IntN(1+i/40))) // more of some than of others, and later of many
			y.add(c, at(network, byte(r.IntN(256))))
			all = append(all, c)
			from[c] = network
			count[network]++
		case len(all) == 0:
		case n < 6:
			forget(all[r.IntN(len(all))])
		default:
			c := y.first()
			most := 0
			for _, n := range count {
				most = max(most, n)
			}
			want := func(*connection) bool { return true }
			if most*large <= len(all) {
				eldest++
			} else {
				crowded++
				want = func(other *connection) bool { return from[other] == from[c] }
				if count[from[c]] < most {
					t.Fatalf("one of %d makes room, and there are %d of another network", count[from[c]], most)
				}
			}
			if i := slices.IndexFunc(all, want); all[i] != c {
				t.Fatal("one makes room that is not the oldest")
			}
			forget(c)
		}
		if len(y.crowds) != len(count) || len(y.byPlace) != len(count) {
			t.Fatalf("%d crowds and %d places, want %d", len(y.crowds), len(y.byPlace), len(count))
		}
	}
	if eldest == 0 || crowded == 0 {
		t.Errorf("%d times it was the oldest of all, %d times of a crowd: want both", eldest, crowded)
	}
}
