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
	"sync/atomic"
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
	// lookEvery is how often new connections have the memory looked at.
	lookEvery = 50 * time.Millisecond
	// each is what a new connection is counted for until it is seen.
	each = 16 << 10
	// collectEvery is how often, in seconds, what is full is collected: connections
	// that ended are memory until then.
	collectEvery = 5
)

// memory tends that of the process, and keeps it below its limits: those of its cgroups,
// and GOMEMLIMIT. The kernel counts sockets and maps to a cgroup, of which Go knows
// nothing, so Go's own limit is what they leave.
type memory struct {
	groups []cgroup
	fixed  bool         // GOMEMLIMIT is set
	came   atomic.Int64 // new connections
	last   atomic.Pointer[look]

	mu        sync.Mutex // of what follows
	samples   []metrics.Sample
	cycles    uint64 // of the collector
	collected int64  // came, before the last of them was seen
}

// look is what was seen of the limit that is next.
type look struct {
	at          time.Time
	came        int64
	whose       string // the limit; "" for none
	used, limit int64
}

func newMemory() *memory {
	m := &memory{groups: ownCgroups(cgroups, self), fixed: os.Getenv("GOMEMLIMIT") != ""}
	for _, name := range []string{"/gc/heap/live:bytes", "/gc/heap/allocs:bytes", "/memory/classes/heap/free:bytes",
		"/memory/classes/heap/objects:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/total:bytes", "/gc/cycles/total:gc-cycles"} {
		m.samples = append(m.samples, metrics.Sample{Name: name})
	}
	m.look()
	return m
}

// MemoryLimit returns how many bytes the process may have by its cgroups,
// math.MaxInt64 for no limit.
func MemoryLimit() int64 {
	least := int64(math.MaxInt64)
	for _, c := range ownCgroups(cgroups, self) {
		least = min(least, c.limit())
	}
	return least
}

// limitMemory tells Go's collector of the limit of the cgroups, less a tenth for what it
// does not count. GOMEMLIMIT goes before.
func limitMemory() {
	if limit := MemoryLimit(); os.Getenv("GOMEMLIMIT") == "" && limit < math.MaxInt64 {
		debug.SetMemoryLimit(limit / 10 * 9)
	}
}

// usage is what Go's runtime says of its memory, in bytes.
type usage struct {
	held   int64 // of the kernel
	unused int64 // of it: free, or garbage, or younger than the last collection
	live   uint64
	allocs uint64 // in all the process's life
	cycles uint64 // of the collector
}

func (m *memory) usage() usage {
	metrics.Read(m.samples)
	value := func(i int) uint64 { return m.samples[i].Value.Uint64() }
	live, free, objects := value(0), value(2), value(3)
	return usage{live: live, allocs: value(1), unused: int64(free + objects - min(objects, live)), held: int64(value(5) - value(4)), cycles: value(6)}
}

// look finds the limit that is next, and tells Go's collector what is left for it. mu
// is held.
func (m *memory) look() (*look, usage) {
	now := &look{at: time.Now(), came: m.came.Load(), limit: math.MaxInt64}
	u := m.usage()
	if u.cycles != m.cycles {
		m.cycles, m.collected = u.cycles, now.came
	}
	// Connections are not known as live before they are collected.
	unused := u.unused - min(u.unused, (now.came-m.collected)*each)
	see := func(whose string, used, limit int64) {
		if now.whose == "" || limit-spare(limit)-used < now.room() {
			now.whose, now.used, now.limit = whose, used, limit
		}
	}
	ours := int64(math.MaxInt64)
	for _, c := range m.groups {
		limit, used := c.limit(), c.used()
		if limit == math.MaxInt64 || used < 0 {
			continue
		}
		ours = min(ours, limit-spare(limit)/2-max(used-u.held, 0))
		see("the cgroup "+c.dir, used-unused, limit)
	}
	switch {
	case m.fixed:
		if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
			see("GOMEMLIMIT", u.held-unused, limit)
		}
	case ours < math.MaxInt64:
		debug.SetMemoryLimit(max(ours, 1<<20))
	}
	m.last.Store(now)
	return now, u
}

// spare is how much of a limit is kept from connections: a tenth, and more of a small
// one. Half of it is for garbage.
func spare(limit int64) int64 { return max(limit/10, min(8<<20, limit/4)) }

// room is how much there is for connections.
func (l *look) room() int64 { return l.limit - spare(l.limit) - l.used }

// full returns nil, or why there is no memory for another connection.
func (m *memory) full() error {
	came, l := m.came.Add(1), m.last.Load()
	if time.Since(l.at) > lookEvery && m.mu.TryLock() { // else somebody looks already
		l, _ = m.look()
		m.mu.Unlock()
	}
	return l.full(came)
}

// full is that of a connection, which so many came before.
func (l *look) full(came int64) error {
	more := (came - l.came) * each
	if l.whose == "" || more <= l.room() {
		return nil
	}
	const mib = 1 << 20
	return fmt.Errorf("%.1f MiB of the limit of %s, %.1f MiB, are in use: raise it, or allow listeners fewer connections (-max-connections)",
		float64(l.used+more)/mib, l.whose, float64(l.limit)/mib)
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
		m.mu.Lock()
		l, u := m.look()
		m.mu.Unlock()
		if l.full(l.came) == nil {
			full = 0
		} else if full++; full%collectEvery == 0 {
			runtime.GC()
		}
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
