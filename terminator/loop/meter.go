// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Tick is over how long a loop's work is measured, at least.
const Tick = 10 * time.Millisecond

// meter measures how much of a processor a loop uses. Time in which others have
// the processor does not count: another loop would not get more of it.
type meter struct {
	since  time.Time
	used   time.Duration // of the thread's processor time at since
	thread int
	tick   uint32
	active int
	before int // active in the last tick

	asleep atomic.Bool
	load   atomic.Uint64 // the bits of a float64
	ended  atomic.Int64  // when the last tick ended
}

func (m *meter) start() {
	m.since, m.tick = time.Now(), 1
	m.thread, m.used = unix.Gettid(), used()
}

// used returns the processor time of this thread.
func used() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// look ends the tick if it is over.
func (m *meter) look() {
	passed := time.Since(m.since)
	if passed < Tick {
		return
	}
	// A goroutine may go on on another thread, whose past says nothing.
	if now, thread := used(), unix.Gettid(); thread == m.thread {
		m.load.Store(math.Float64bits(float64(now-m.used) / float64(passed)))
		m.used = now
	} else {
		m.thread, m.used = thread, now
	}
	m.since = m.since.Add(passed)
	m.ended.Store(m.since.UnixNano())
	m.tick++
	m.before, m.active = m.active, 0
}

// count notes a socket that had an event.
func (m *meter) count(w *Watch) {
	if w.tick != m.tick {
		w.tick = m.tick
		m.active++
	}
}

// Load returns what share of a processor the loop has used of late, 0 to 1. It
// may be called from anywhere.
func (l *Loop) Load() float64 {
	if l.meter.asleep.Load() && time.Since(time.Unix(0, l.meter.ended.Load())) > 10*Tick {
		return 0
	}
	return math.Float64frombits(l.meter.load.Load())
}

// Active returns how many sockets had events in the last tick, and the number of
// the tick at hand. It may be called on the loop.
func (l *Loop) Active() (sockets int, tick uint32) { return l.meter.before, l.meter.tick }
