// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is the CPU time of a process in all its threads, those that have
// ended included. It is the sum of what /proc/PID/task/*/schedstat counts, to
// the nanosecond for threads that wait and to a scheduler tick for running
// ones, but a thread that ends between two readings does not take its share
// away.
func cpuTime(pid int) (time.Duration, error) {
	// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of linux/posix-timers_types.h.
	clock := int32(^pid)<<3 | 2
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// cpuTimes is the CPU time of several processes together.
func cpuTimes(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		t, err := cpuTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// family is a process and its descendants, for servers that fork workers.
func family(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		child, parent, ok := parseStat(raw)
		if ok {
			children[parent] = append(children[parent], child)
		}
	}
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children[pids[i]]...)
	}
	return pids, nil
}

// familyTime is the CPU time of a process and its descendants, those included
// that have ended and were waited for: they count in ticks.
func familyTime(pid int) (sum time.Duration, err error) {
	pids, err := family(pid)
	if err != nil {
		return 0, err
	}
	for _, p := range slices.Backward(pids) { // whoever ends meanwhile is found at its parent
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil && p != pid {
			continue
		} else if err != nil {
			return 0, err
		}
		own, err := cpuTime(p)
		if err != nil && p == pid {
			return 0, err
		}
		sum += own + waited(raw)
	}
	return sum, nil
}

// waited is the CPU time of children that have ended in a /proc/PID/stat line:
// its fields cutime and cstime.
func waited(line []byte) time.Duration {
	fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:])) // the first is the state, the third of all
	if len(fields) < 15 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[13], 10, 64)
	system, _ := strconv.ParseInt(fields[14], 10, 64)
	return time.Duration(user+system) * tick
}

// parseStat returns the process and its parent of a /proc/PID/stat line, in
// which the command may contain spaces and parentheses (proc_pid_stat(5)).
func parseStat(line []byte) (pid, parent int, ok bool) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return 0, 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(line[:open])))
	rest := strings.Fields(string(line[end+1:]))
	if err != nil || len(rest) < 2 {
		return 0, 0, false
	}
	parent, err = strconv.Atoi(rest[1])
	return pid, parent, err == nil
}

// Machine is what the whole machine did, from the first line of /proc/stat.
type Machine struct{ Total, Idle, Steal time.Duration }

// tick is the unit of /proc/stat: USER_HZ is 100 on every architecture of Go.
const tick = 10 * time.Millisecond

func readMachine() (Machine, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return parseMachine(line)
}

func parseMachine(line string) (m Machine, err error) {
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return m, fmt.Errorf("parse /proc/stat: unexpected line %q", line)
	}
	for i, f := range fields[1:9] { // guest times are part of user times
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return m, fmt.Errorf("parse /proc/stat: %w", err)
		}
		d := time.Duration(n) * tick
		m.Total += d
		switch i {
		case 3, 4: // idle, iowait
			m.Idle += d
		case 7:
			m.Steal += d
		}
	}
	return m, nil
}

func (m Machine) minus(o Machine) Machine {
	return Machine{m.Total - o.Total, m.Idle - o.Idle, m.Steal - o.Steal}
}

// loadAverage is the first three fields of /proc/loadavg.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(raw))[:3], " ")
}
