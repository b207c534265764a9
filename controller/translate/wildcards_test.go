// SPDX-License-Identifier: Apache-2.0

package translate

import "testing"

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
