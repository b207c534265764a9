// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tick is over how long a loop's work is measured, at least.
const Tick = 10 * time.Millisecond

// meter measures how much of a processor a loop uses, and what of that is for sockets
// that it has had for a while. Time in which others have the processor is not used:
// another loop would not get more of it.
type meter struct {
	began  time.Time
	since  time.Time
	used   time.Duration // of the thread's processor time at since
	waited time.Duration // of the time that it waited for a processor, at since
	thread int
	stat   int // a descriptor of the thread's schedstat, or -1
	tick   uint32
	second uint16 // since it began; starts anew after 18 hours
	active int
	before int // active in the last tick
	events int // in this tick
	old    int // of them, those of settled sockets

	asleep atomic.Bool
	load   share        // used
	busy   share        // used for settled sockets
	wait   share        // waited for them
	ended  atomic.Int64 // when the last tick ended
}

// share is a part of the time, 0 to 1.
type share struct{ bits atomic.Uint64 }

func (s *share) set(f float64) { s.bits.Store(math.Float64bits(f)) }

func (m *meter) start() {
	m.began, m.tick, m.stat = time.Now(), 1, -1
	m.since = m.began
	m.used, m.thread = usedBy()
	m.follow()
}

func (m *meter) stop() {
	if m.stat >= 0 {
		_ = unix.Close(m.stat)
	}
}

// follow opens the statistics of the thread that the loop is on now.
func (m *meter) follow() {
	m.stop()
	m.stat, _ = unix.Open(fmt.Sprintf("/proc/self/task/%d/schedstat", m.thread), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	m.waited = waited(m.stat)
}

// Used returns the processor time of this thread.
func Used() time.Duration {
	var t unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_THREAD_CPUTIME_ID, uintptr(unsafe.Pointer(&t)), 0)
	return time.Duration(t.Nano())
}

// usedBy returns the processor time of the thread that this is, and which one.
func usedBy() (time.Duration, int) {
	runtime.LockOSThread() // not another one in between
	defer runtime.UnlockOSThread()
	return Used(), unix.Gettid()
}

// waited returns how long a thread was ready to run and did not, by the second number
// of its schedstat (Documentation/scheduler/sched-stats.rst); 0 where the kernel does
// not count it.
func waited(stat int) time.Duration {
	var text [64]byte
	n, _, err := unix.RawSyscall6(unix.SYS_PREAD64, uintptr(stat), uintptr(unsafe.Pointer(&text)), unsafe.Sizeof(text), 0, 0, 0)
	if err != 0 {
		return 0
	}
	_, after, _ := bytes.Cut(text[:n], []byte(" "))
	var ns time.Duration
	for _, digit := range after {
		if digit < '0' || digit > '9' {
			break
		}
		ns = 10*ns + time.Duration(digit-'0')
	}
	return ns
}

// look ends the tick if it is over. Its system calls are of those that the scheduler is
// not told of: see Loop.wait.
func (m *meter) look() {
	passed := time.Since(m.since)
	if passed < Tick {
		return
	}
	used, thread := usedBy()
	// A goroutine may go on on another thread, whose past says nothing.
	if thread == m.thread {
		waited := waited(m.stat)
		load, settled := float64(used-m.used)/float64(passed), float64(m.old)/float64(max(m.events, 1))
		m.load.set(load)
		m.busy.set(load * settled)
		m.wait.set(float64(waited-m.waited) / float64(passed) * settled)
		m.waited = waited
	} else {
		m.thread = thread
		m.follow()
	}
	m.used, m.since = used, m.since.Add(passed)
	m.second = uint16(m.since.Sub(m.began) / time.Second)
	m.ended.Store(m.since.UnixNano())
	m.tick++
	m.before, m.active, m.events, m.old = m.active, 0, 0, 0
}

// count notes an event of a socket.
func (m *meter) count(w *Watch) {
	m.events++
	if w.settled = w.settled || m.second-w.second > 1; w.settled {
		m.old++
	}
	if w.tick != m.tick {
		w.tick = m.tick
		m.active++
	}
}

// Load returns what share of a processor the loop has used of late, 0 to 1. It
// may be called from anywhere.
func (l *Loop) Load() float64 { return l.meter.read(&l.meter.load) }

// Settled returns what part of its load is that of sockets which the loop has had for a
// second or two, and for what share of the time they have waited for a processor. It may
// be called from anywhere.
func (l *Loop) Settled() (used, waited float64) {
	return l.meter.read(&l.meter.busy), l.meter.read(&l.meter.wait)
}

func (m *meter) read(s *share) float64 {
	if m.asleep.Load() && time.Since(time.Unix(0, m.ended.Load())) > 10*Tick {
		return 0
	}
	return math.Float64frombits(s.bits.Load())
}

// Active returns how many sockets had events in the last tick, and the number of
// the tick at hand. It may be called on the loop.
func (l *Loop) Active() (sockets int, tick uint32) { return l.meter.before, l.meter.tick }
