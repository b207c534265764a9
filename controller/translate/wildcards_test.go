// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Of two names that overlap one is the other, or a wildcard above it.
func TestNamesThatOverlapAreWildcardsOfOneAnother(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		var labels []string
		for range 1 + r.IntN(4) {
			labels = append(labels, string(rune('a'+r.IntN(2))))
		}
		switch n := strings.Join(labels, "."); r.IntN(4) {
		case 0:
			return "*." + n
		case 1:
			return ""
		default:
			return n
		}
	}
	overlapping := 0
	for range 100_000 {
		a, b := name(), name()
		_, certificates := intersectNames(a, b)
		if !certificates && !overlap(a, b) {
			continue
		}
		overlapping++
		if !slices.Contains(wildcards(a), b) && !slices.Contains(wildcards(b), a) {
			t.Fatalf("%q and %q overlap: wildcards are %q and %q", a, b, wildcards(a), wildcards(b))
		}
	}
	if overlapping == 0 {
		t.Error("no two names overlapped")
	}
}

// Whatever has all names of another host name is found by it.
func TestWildcardsFindEveryHostnameThatHasAllNames(t *testing.T) {
	names := []string{"", "*.c", "*.b.c", "*.a.b.c", "a.b.c", "b.c", "x.b.c", "*.x", "c"}
	for _, l := range names {
		found := map[string]bool{}
		for _, o := range wildcards(l) {
			found[o] = true
		}
		for _, o := range names {
			if under, ok := intersect(o, l); ok && under == l && !found[o] {
				t.Errorf("%q has all names of %q and is not found by it", o, l)
			}
		}
	}
}
