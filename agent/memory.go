// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
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
	// lookEvery is how often a new connection has the memory looked at.
	lookEvery = 50 * time.Millisecond
	// reserve is what is left for other things than connections, where a tenth of the
	// limit is less.
	reserve = 8 << 20
	// collectEvery is how often, in seconds, what is full is collected: connections
	// that ended are memory until then.
	collectEvery = 5
)

// memory tends that of the process, and keeps it below its limits: that of its cgroup,
// and GOMEMLIMIT. The kernel counts sockets and maps to the cgroup, of which Go knows
// nothing, so Go's own limit is what they leave.
type memory struct {
	group cgroup
	given int64 // GOMEMLIMIT, or math.MaxInt64

	mu      sync.Mutex
	samples []metrics.Sample
	looked  time.Time
	err     error // why there is no room for more, or nil
}

// newMemory finds the limits and tells Go's collector of them.
func newMemory() *memory {
	m := &memory{given: math.MaxInt64, group: ownCgroup("/sys/fs/cgroup", "/proc/self/cgroup")}
	if os.Getenv("GOMEMLIMIT") != "" {
		m.given = debug.SetMemoryLimit(-1)
	}
	for _, name := range []string{"/gc/heap/live:bytes", "/gc/heap/allocs:bytes", "/memory/classes/heap/free:bytes",
		"/memory/classes/heap/objects:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/total:bytes"} {
		m.samples = append(m.samples, metrics.Sample{Name: name})
	}
	_ = m.full()
	return m
}

// usage is what Go's runtime says of its memory, in bytes.
type usage struct {
	held   int64 // of the kernel
	unused int64 // of it: free, or garbage, or younger than the last collection
	live   uint64
	allocs uint64 // in all the process's life
}

// usage is called with mu held.
func (m *memory) usage() usage {
	metrics.Read(m.samples)
	value := func(i int) uint64 { return m.samples[i].Value.Uint64() }
	live, free, objects := value(0), value(2), value(3)
	return usage{live: live, allocs: value(1), unused: int64(free + objects - min(objects, live)), held: int64(value(5) - value(4))}
}

// full returns nil, or why there is no memory for another connection: nine tenths of a
// limit are in use, garbage left out. Half of the rest is for garbage.
func (m *memory) full() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.looked) < lookEvery {
		return m.err
	}
	m.looked, m.err = time.Now(), nil
	u := m.usage()
	if used := u.held - u.unused; used > m.given-spare(m.given) {
		m.err = fullError("GOMEMLIMIT", used, m.given)
	}
	all, err := m.group.used()
	if err != nil {
		return m.err // as with no limit
	}
	if m.given == math.MaxInt64 {
		left := m.group.limit - spare(m.group.limit)/2 - max(all-u.held, 0)
		debug.SetMemoryLimit(max(left, (u.held-u.unused)/4*5))
	}
	if used := all - u.unused; used > m.group.limit-spare(m.group.limit) {
		m.err = fullError("the memory cgroup", used, m.group.limit)
	}
	return m.err
}

func spare(limit int64) int64 { return max(limit/10, reserve) }

func fullError(whose string, used, limit int64) error {
	const mib = 1 << 20
	return fmt.Errorf("%.1f MiB of the limit of %s, %.1f MiB, are in use: give the gateway more memory, or its listeners fewer connections (-max-connections, or a limit of their own)",
		float64(used)/mib, whose, float64(limit)/mib)
}

// tend sets GOGC by what lives, and gives memory back that is not used any
// more once it is quiet. Connections are the same to it whether they move bytes:
// those that are established allocate nothing.
func (m *memory) tend(ctx context.Context) {
	var before uint64
	percent, still, given, full := 100, 0, false, 0
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if m.full() == nil {
			full = 0
		} else if full++; full%collectEvery == 0 {
			runtime.GC()
		}
		m.mu.Lock()
		u := m.usage()
		m.mu.Unlock()
		if os.Getenv("GOGC") == "" { // else as somebody wants
			if p := gcPercent(u.live); p*4 < percent*3 || p*3 > percent*4 {
				percent = p
				debug.SetGCPercent(p)
			}
		}
		still++
		if u.allocs-before > quiet {
			still, given = 0, false
		}
		before = u.allocs
		// Connections give up their keys meanwhile.
		if still > 1 && !given && u.unused > worth {
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
