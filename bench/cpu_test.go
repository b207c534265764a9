// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCPUTimeCountsThreadsThatHaveEnded(t *testing.T) {
	const busy = 100 * time.Millisecond
	before, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for start := threadTime(t); threadTime(t)-start < busy; {
		}
	}()
	<-done
	time.Sleep(20 * time.Millisecond) // the thread ends after its goroutine
	after, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after-before < busy {
		t.Errorf("counted %v, the thread used %v", after-before, busy)
	}
}

// threadTime is the CPU time of the calling thread by its schedstat.
func threadTime(t *testing.T) time.Duration {
	raw, err := os.ReadFile("/proc/thread-self/schedstat")
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
	var ns int64
	if _, err := fmt.Sscan(string(raw), &ns); err != nil {
		t.Error(err)
		runtime.Goexit()
	}
	return time.Duration(ns)
}

func TestCPUTimeAgreesWithSchedstat(t *testing.T) {
	cmd := exec.Command("sh", "-c", "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; read wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	// Two equal readings of a process that has done its loop.
	for deadline := time.Now().Add(10 * time.Second); ; {
		schedstat := schedstatTime(t, cmd.Process.Pid)
		clock, err := cpuTime(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if clock == schedstat && clock > time.Millisecond {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("CPU clock %v, schedstat %v", clock, schedstat)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func schedstatTime(t *testing.T, pid int) (sum time.Duration) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var ns int64
		if _, err := fmt.Sscan(string(raw), &ns); err != nil {
			t.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

func TestFamilyTimeCountsProcessesThatHaveEnded(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; echo; read wait")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	own, err := cpuTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	all, err := familyTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if all < own+2*tick {
		t.Errorf("the shell took %v, it and its child %v", own, all)
	}
}

func TestTheTimeOfEndedChildrenIsRead(t *testing.T) {
	line := "12 (a b) c) S 3 12 12 0 -1 4194560 300 5000 0 7 11 22 33 44 20 0 1 0"
	if got, want := waited([]byte(line)), 770*time.Millisecond; got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if got := waited([]byte("12 (sh) S 3")); got != 0 {
		t.Errorf("a short line has %v", got)
	}
}

func TestFamilyIsAProcessWithItsDescendants(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sh -c 'sleep 60 & echo $$ $!; wait' & wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var shell, sleep int
	if _, err := fmt.Fscan(out, &shell, &sleep); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, pid := range []int{sleep, shell, cmd.Process.Pid} {
			p, _ := os.FindProcess(pid)
			_ = p.Kill()
		}
		_ = cmd.Wait()
	}()
	got, err := family(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	want := []int{cmd.Process.Pid, shell, sleep}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStatLinesWithAnyCommandAreRead(t *testing.T) {
	type result struct {
		PID, Parent int
		OK          bool
	}
	cases := map[string]result{
		"12 (sh) S 3 12 12 0":         {12, 3, true},
		"12 (a b) c) (d) R 3 12 12 0": {12, 3, true},
		"12 (":                        {},
		"":                            {},
		") 12 (":                      {},
	}
	for line, want := range cases {
		var got result
		got.PID, got.Parent, got.OK = parseStat([]byte(line))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", line, diff)
		}
	}
}

func TestMachineTimesAreRead(t *testing.T) {
	got, err := parseMachine("cpu  100 20 30 400 50 6 7 8 90 9")
	if err != nil {
		t.Fatal(err)
	}
	want := Machine{Total: 6210 * time.Millisecond, Idle: 4500 * time.Millisecond, Steal: 80 * time.Millisecond}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, line := range []string{"", "cpu 1 2 3", "cpu a b c d e f g h", "intr 1 2 3 4 5 6 7 8"} {
		if _, err := parseMachine(line); err == nil {
			t.Errorf("%q: no error", line)
		}
	}
}
