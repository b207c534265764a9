// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

const (
	// garbage is what a small heap may gather before it is collected: handshakes
	// make much of it, and little lives long.
	garbage = 32 << 20
	// minPercent and maxPercent bound GOGC. A heap of idle connections is large,
	// lives long and grows slowly.
	minPercent, maxPercent = 50, 800
	// quiet is how much is allocated in a second when nothing goes on.
	quiet = 1 << 20
	// worth is how much unused memory is given back.
	worth = 8 << 20
)

// tendMemory sets GOGC by what lives, and gives memory back that is not used any
// more once it is quiet. Connections are the same to it whether they move bytes:
// those that are established allocate nothing.
func tendMemory(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return // as somebody wants
	}
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	var before uint64
	percent, still, given := 100, 0, false
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		metrics.Read(samples)
		live, allocs, free, objects := samples[0].Value.Uint64(), samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()
		if p := gcPercent(live); p*4 < percent*3 || p*3 > percent*4 {
			percent = p
			debug.SetGCPercent(p)
		}
		still++
		if allocs-before > quiet {
			still, given = 0, false
		}
		before = allocs
		// Connections give up their keys meanwhile.
		if still > 1 && !given && free+objects-min(objects, live) > worth {
			given = true
			debug.FreeOSMemory()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// gcPercent is GOGC for a heap of so many bytes that live.
func gcPercent(live uint64) int {
	return int(min(max(garbage*100/max(live, 1), minPercent), maxPercent))
}

// limitMemory tells Go's collector of the limit of our cgroup, less a tenth for
// what it does not count. GOMEMLIMIT goes before.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return // no cgroups, no limit
	}
	if limit := memoryMax("/sys/fs/cgroup", string(own)); limit < math.MaxInt64 {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
}

// memoryMax is the least memory.max of a cgroup and those around it, of a line
// "0::/path" as in /proc/self/cgroup.
func memoryMax(root, own string) int64 {
	limit := int64(math.MaxInt64)
	for line := range strings.Lines(own) {
		path, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !unified {
			continue
		}
		for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
			if b, err := os.ReadFile(filepath.Join(root, path, "memory.max")); err == nil {
				if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil { // else "max"
					limit = min(limit, n)
				}
			}
			if path == "/" {
				break
			}
		}
	}
	return limit
}
