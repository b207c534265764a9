// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOwnCgroupIsTheOneWithTheLeastLimit(t *testing.T) {
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
	write("memory/pod/memory.limit_in_bytes", "500\n")
	write("memory/pod/container/memory.limit_in_bytes", "9223372036854771712\n")
	for own, want := range map[string]struct {
		limit int64
		dir   string
	}{
		"0::/pod/container\n":               {1000, "pod"},
		"0::/pod/small\n":                   {10, "pod/small"},
		"0::/\n":                            {math.MaxInt64, ""},
		"0::/nowhere\n":                     {math.MaxInt64, ""},
		"4:memory:/pod\n0::/pod/small/in\n": {10, "pod/small"},
		"4:cpu,memory:/pod/container/in\n0::/pod\n": {500, "memory/pod"},
		"4:cpu:/pod\n": {math.MaxInt64, ""},
		"4":            {math.MaxInt64, ""},
		"":             {math.MaxInt64, ""},
	} {
		got := ownCgroup(root, write("own", own))
		if dir := strings.TrimPrefix(strings.TrimPrefix(got.dir, root), "/"); got.limit != want.limit || dir != want.dir {
			t.Errorf("%q: limit %d of %q, want %d of %q", own, got.limit, dir, want.limit, want.dir)
		}
	}
}

// The kernel's own files of the cgroup that this test runs in, where one counts memory.
func TestAWorkingSetIsCounted(t *testing.T) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(own)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, c := range []cgroup{
			{1, filepath.Join("/sys/fs/cgroup", fields[2]), "memory.current", "inactive_file"},
			{1, filepath.Join("/sys/fs/cgroup/memory", fields[2]), "memory.usage_in_bytes", "total_inactive_file"},
		} {
			if _, err := os.Stat(filepath.Join(c.dir, c.usage)); err != nil {
				continue
			}
			if used, err := c.used(); err != nil || used <= 0 {
				t.Errorf("%s: %d bytes, %v", c.dir, used, err)
			} else {
				t.Log(c.dir, used)
				return
			}
		}
	}
	t.Skip("no cgroup here counts memory")
}

func TestASmallHeapIsCollectedSeldom(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 8 << 20: 400, 32 << 20: 100, 64 << 20: 50, 1 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("gcPercent(%d) = %d, want %d", live, got, want)
		}
	}
}
