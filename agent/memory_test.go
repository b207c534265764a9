// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOwnCgroupsAreAllThatCountMemory(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) string {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("pod/memory.max", "1000\n")
	write("pod/container/memory.max", "max\n")
	write("pod/small/memory.max", "10\n")
	write("pod/small/memory.high", "8\n")
	write("memory/pod/memory.limit_in_bytes", "500\n")
	write("memory/pod/container/memory.limit_in_bytes", "9223372036854771712\n")
	const none = math.MaxInt64
	for own, want := range map[string]map[string]int64{
		"0::/pod/container\n":                      {"pod/container": none, "pod": 1000},
		"0::/pod/small\n":                          {"pod/small": 8, "pod": 1000},
		"0::/\n":                                   {},
		"0::/nowhere\n":                            {},
		"4:memory:/pod\n0::/pod/small/in\n":        {"memory/pod": 500, "pod/small": 8, "pod": 1000},
		"4:cpu,memory:/pod/container/in\n1:pids:/": {"memory/pod/container": none, "memory/pod": 500},
		"4:cpu:/pod\n":                             {},
		"4":                                        {},
		"":                                         {},
	} {
		got := map[string]int64{}
		for _, c := range ownCgroups(root, write("own", own)) {
			got[strings.TrimPrefix(c.dir, root+"/")] = c.limit()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", own, diff)
		}
	}
}

// The kernel's own files of the cgroups that this test runs in, where one counts memory.
func TestACgroupCountsWhatIsUsed(t *testing.T) {
	groups := ownCgroups(cgroups, self)
	for _, c := range groups {
		before := c.used()
		page := make([]byte, 64<<20)
		for i := range page {
			page[i] = 1
		}
		after := c.used()
		runtime.KeepAlive(page)
		if before <= 0 || after <= 0 {
			t.Errorf("%s: %d bytes in use, and then %d", c.dir, before, after)
		}
		t.Logf("%s: %d MiB in use, and %d with 64 more", c.dir, before>>20, after>>20)
	}
	if len(groups) == 0 {
		t.Skip("no cgroup here counts memory")
	}
}

func TestConnectionsAreRefusedBeforeTheyAreSeen(t *testing.T) {
	const mib = 1 << 20
	for limit, most := range map[int64]int64{4 * mib: 3 * mib, 40 * mib: 32 * mib, 80 * mib: 72 * mib, 1000 * mib: 900 * mib} {
		l := &look{whose: "a cgroup", limit: limit, used: most - 10*each, came: 7}
		for more := range int64(20) {
			if full := l.full(l.came+more) != nil; full != (more > 10) {
				t.Errorf("limit %d MiB, %d more: %v", limit/mib, more, full)
			}
		}
	}
	if err := (&look{limit: math.MaxInt64}).full(1 << 40); err != nil {
		t.Error("no limit:", err)
	}
}

func TestASmallHeapIsCollectedSeldom(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 8 << 20: 400, 32 << 20: 100, 64 << 20: 50, 1 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("gcPercent(%d) = %d, want %d", live, got, want)
		}
	}
}
