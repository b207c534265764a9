// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryMaxIsTheLeastOfAllAround(t *testing.T) {
	root := t.TempDir()
	write := func(path, limit string) {
		if err := os.MkdirAll(filepath.Join(root, path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path, "memory.max"), []byte(limit+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("pod", "1000")
	write("pod/container", "max")
	write("pod/small", "10")
	for own, want := range map[string]int64{
		"0::/pod/container\n":               1000,
		"0::/pod/small\n":                   10,
		"0::/\n":                            math.MaxInt64,
		"0::/nowhere\n":                     math.MaxInt64,
		"4:memory:/pod\n0::/pod/small/in\n": 10,
		"4:memory:/pod\n":                   math.MaxInt64,
		"":                                  math.MaxInt64,
	} {
		if got := memoryMax(root, own); got != want {
			t.Errorf("memoryMax(%q) = %d, want %d", own, got, want)
		}
	}
}

func TestASmallHeapIsCollectedSeldom(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 8 << 20: 400, 32 << 20: 100, 64 << 20: 50, 1 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("gcPercent(%d) = %d, want %d", live, got, want)
		}
	}
}
