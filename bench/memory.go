// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/bench/report"
)

// settle is how long idle connections rest before memory is read: collectors
// run and give back what they found.
const settle = 3 * time.Second

// memoryReading is the memory of a gateway at one moment, in bytes.
type memoryReading struct {
	rss    int64
	kernel int64 // of its cgroup; -1 when it has none
}

// memory reads the gateway's memory in a scenario that measures it.
func (g *gateway) memory(scenario Scenario) (r memoryReading, err error) {
	if scenario.Measured.Op != Hold {
		return r, nil
	}
	time.Sleep(settle)
	for _, pid := range g.pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return r, fmt.Errorf("memory of the gateway: %w", err)
		}
		kB, err := field(string(raw), "VmRSS:")
		if err != nil {
			return r, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		r.rss += kB << 10
	}
	r.kernel, err = g.group.kernel()
	return r, err
}

// fillMemory is what the connections of the window took, each, in kB (1,000
// bytes). Those of the preparation are not among them.
func fillMemory(w *report.Window, g *gateway, scenario Scenario, before memoryReading) error {
	after, err := g.memory(scenario)
	if err != nil {
		return err
	}
	added := float64(scenario.Connections - (scenario.Connections+9)/10)
	w.PerUnit = float64(after.rss-before.rss) / added / 1e3
	if after.kernel >= 0 {
		each := float64(after.kernel-before.kernel) / added / 1e3
		w.Kernel = &each
	}
	return nil
}

// field is the number after a word at the beginning of a line.
func field(text, word string) (int64, error) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == word {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %q", word)
}

// memoryGroup is a memory cgroup of a gateway: the kernel charges it with the
// sockets, and the BPF maps, that its processes make. Empty where there are no
// memory cgroups or we may not make one.
type memoryGroup string

// newMemoryGroup makes a cgroup with processes in it.
func newMemoryGroup(name string, pids []int) memoryGroup {
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(root, name)
		if os.Mkdir(dir, 0o755) != nil {
			return ""
		}
		for _, pid := range pids {
			if os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0) != nil {
				_ = memoryGroup(dir).Close()
				return ""
			}
		}
		return memoryGroup(dir)
	}
	return ""
}

// kernel is the memory that the kernel holds for the group, in bytes, -1 when
// it is not known.
func (m memoryGroup) kernel() (int64, error) {
	if m == "" {
		return -1, nil
	}
	if raw, err := os.ReadFile(filepath.Join(string(m), "memory.kmem.usage_in_bytes")); err == nil { // version 1
		tcp, err := os.ReadFile(filepath.Join(string(m), "memory.kmem.tcp.usage_in_bytes"))
		if err != nil {
			return 0, err
		}
		a, aerr := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		b, berr := strconv.ParseInt(strings.TrimSpace(string(tcp)), 10, 64)
		return a + b, errors.Join(aerr, berr)
	}
	raw, err := os.ReadFile(filepath.Join(string(m), "memory.stat"))
	if err != nil {
		return -1, nil // no memory controller in this hierarchy
	}
	kernel, kerr := field(string(raw), "kernel")
	sock, serr := field(string(raw), "sock")
	return kernel + sock, errors.Join(kerr, serr)
}

// Close removes the group, which has no processes any more.
func (m memoryGroup) Close() error {
	if m == "" {
		return nil
	}
	var err error
	for range 100 { // the kernel is done with a process a little after its parent
		if err = os.Remove(string(m)); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
