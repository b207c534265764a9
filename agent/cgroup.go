// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cgroup is one that counts the memory of the process: its own or one around it, of
// version 2 or 1 (kernel: admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
type cgroup struct {
	dir string
	v1  bool
}

// Where cgroups are mounted, and the process's own are listed (cgroups(7)).
const cgroups, self = "/sys/fs/cgroup", "/proc/self/cgroup"

// ownCgroups finds them below root, of a file such as /proc/self/cgroup. In a container
// what is mounted at root is its own.
func ownCgroups(root, own string) (all []cgroup) {
	lines, err := os.ReadFile(own)
	if err != nil {
		return nil // no cgroups, no limit
	}
	for line := range strings.Lines(string(lines)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		c, top := cgroup{}, root
		switch {
		case fields[0] == "0": // version 2
		case slices.Contains(strings.Split(fields[1], ","), "memory"):
			c.v1, top = true, filepath.Join(root, "memory")
		default:
			continue
		}
		for path := filepath.Clean("/" + fields[2]); ; path = filepath.Dir(path) {
			c.dir = filepath.Join(top, path)
			if _, err := os.Stat(filepath.Join(c.dir, c.limits()[0])); err == nil {
				all = append(all, c)
			}
			if path == "/" {
				break
			}
		}
	}
	return all
}

// limits are the files that have them. Above memory.high everything waits.
func (c cgroup) limits() []string {
	if c.v1 {
		return []string{"memory.limit_in_bytes"}
	}
	return []string{"memory.max", "memory.high"}
}

// limit is in bytes, math.MaxInt64 for none. It may change at any time.
func (c cgroup) limit() int64 {
	least := int64(math.MaxInt64)
	for _, file := range c.limits() {
		if n := readBytes(filepath.Join(c.dir, file)); n >= 0 && n < 1<<62 { // else "max", or version 1's nearly 1<<63
			least = min(least, n)
		}
	}
	return least
}

// used is how much the cgroup cannot do without, in bytes: not files that nobody has
// mapped, nor caches of the kernel that it can drop. It is less than 0 where nobody
// counts.
func (c cgroup) used() int64 {
	usage, file, shmem, mapped := "memory.current", "file", "shmem", "file_mapped"
	if c.v1 {
		usage, file, shmem, mapped = "memory.usage_in_bytes", "total_cache", "total_shmem", "total_mapped_file"
	}
	used := readBytes(filepath.Join(c.dir, usage))
	if used < 0 {
		return used
	}
	stat := map[string]int64{}
	text, _ := os.ReadFile(filepath.Join(c.dir, "memory.stat"))
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		stat[key], _ = strconv.ParseInt(value, 10, 64)
	}
	return max(used-max(stat[file]-stat[shmem]-stat[mapped], 0)-stat["slab_reclaimable"], 0)
}

// readBytes returns -1 for what cannot be read, or is no number.
func readBytes(file string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return -1
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
