// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// cgroup is the one whose memory limit the process meets first: its own or one around
// it, of version 2 or 1 (kernel: admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
type cgroup struct {
	limit    int64 // bytes, math.MaxInt64 for none
	dir      string
	usage    string // a file
	inactive string // a key of memory.stat
}

var errNoLimit = errors.New("no cgroup limits the memory")

// ownCgroup finds it below root, of a file such as /proc/self/cgroup.
func ownCgroup(root, own string) cgroup {
	least := cgroup{limit: math.MaxInt64}
	lines, err := os.ReadFile(own)
	if err != nil {
		return least // no cgroups, no limit
	}
	for line := range strings.Lines(string(lines)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 {
			continue
		}
		top, file, c := root, "memory.max", cgroup{usage: "memory.current", inactive: "inactive_file"}
		switch {
		case fields[0] == "0": // version 2
		case slices.Contains(strings.Split(fields[1], ","), "memory"):
			top, file, c = filepath.Join(root, "memory"), "memory.limit_in_bytes", cgroup{usage: "memory.usage_in_bytes", inactive: "total_inactive_file"}
		default:
			continue
		}
		for path := filepath.Clean("/" + fields[2]); ; path = filepath.Dir(path) {
			c.dir = filepath.Join(top, path)
			if n, err := readBytes(filepath.Join(c.dir, file)); err == nil && n < min(least.limit, 1<<62) { // else "max", or version 1's nearly 1<<63
				c.limit = n
				least = c
			}
			if path == "/" {
				break
			}
		}
	}
	return least
}

// used is how much of the limit cannot be had again by dropping files that nobody
// reads: the working set, as the kubelet counts it.
func (c cgroup) used() (int64, error) {
	if c.limit == math.MaxInt64 {
		return 0, errNoLimit
	}
	used, err := readBytes(filepath.Join(c.dir, c.usage))
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(filepath.Join(c.dir, "memory.stat"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(stat) {
		if key, value, _ := strings.Cut(strings.TrimSpace(string(line)), " "); key == c.inactive {
			inactive, err := strconv.ParseInt(value, 10, 64)
			return max(used-inactive, 0), err
		}
	}
	return 0, fmt.Errorf("%s/memory.stat has no %s", c.dir, c.inactive)
}

func readBytes(file string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}
