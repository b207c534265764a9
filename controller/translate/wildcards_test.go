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
