// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// holds is what a gateway has of the machine.
type holds struct {
	rss                     int64 // bytes
	descriptors, goroutines int64
	entries                 int // in maps of the splice
}

func (h holds) String() string {
	return fmt.Sprintf("%.1f MiB, %d descriptors, %d goroutines, %d entries in maps", float64(h.rss)/(1<<20), h.descriptors, h.goroutines, h.entries)
}

// holds asks /proc and the gateway's metrics.
func (g *gateway) holds(metrics string) (h holds) {
	g.t.Helper()
	pid := g.cmd.Process.Pid
	h.rss = resident(g.t, pid)
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		g.t.Fatal(err)
	}
	h.descriptors, h.goroutines = int64(len(open)), int64(g.scrape(metrics)["go_goroutines"])
	if _, err := os.Stat(g.pins()); err == nil {
		h.entries = g.entries()
	}
	return h
}

// entries are those of all maps of the splice.
func (g *gateway) entries() (n int) {
	g.t.Helper()
	maps, err := filepath.Glob(filepath.Join(g.pins(), "sl_*"))
	if err != nil || len(maps) == 0 {
		g.t.Fatalf("maps in %s: %v, %v", g.pins(), maps, err)
	}
	for _, m := range maps {
		out, err := exec.Command("bpftool", "-j", "map", "dump", "pinned", m).Output()
		if err != nil {
			g.t.Fatalf("bpftool map dump pinned %s: %v", m, err)
		}
		var entries []json.RawMessage
		if err := json.Unmarshal(out, &entries); err != nil {
			g.t.Fatalf("bpftool map dump pinned %s: %v", m, err)
		}
		n += len(entries)
	}
	return n
}

// resident is a process's RSS in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nVmRSS:")
	var kB int64
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		t.Fatalf("VmRSS of process %d: %v", pid, err)
	}
	return kB << 10
}

// allCounts is scrape by a client elsewhere, such as in a network namespace.
func allCounts(t *testing.T, client *http.Client, metrics string) map[string]float64 {
	t.Helper()
	resp, err := client.Get("http://" + metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(name, "#") {
			all[name] = v
		}
	}
	return all
}

// settles waits until a gateway has no more descriptors and goroutines than it had,
// and returns what it holds then. Its memory is a figure: Go gives it back when it likes.
func (g *gateway) settles(metrics string, before holds) (now holds) {
	g.t.Helper()
	const slack = 10 // connections for metrics, a collection that runs
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		now = g.holds(metrics)
		if now.descriptors <= before.descriptors+slack && now.goroutines <= before.goroutines+slack && now.entries <= before.entries+slack {
			return now
		}
		if time.Now().After(deadline) {
			g.t.Errorf("the gateway does not come back to what it held before: %v, and now %v", before, now)
			return now
		}
	}
}

// latencies are how long something took, each time.
type latencies struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, d)
}

func (l *latencies) count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.all))
}

func (l *latencies) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.all) == 0 {
		return "none"
	}
	slices.Sort(l.all)
	at := func(p float64) time.Duration {
		return l.all[int(p*float64(len(l.all)-1))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("median %v, p99 %v", at(.5), at(.99))
}

// exchangeSize is what each connection of visitors sends and gets back.
const exchangeSize = 4 << 10

// visitors connect again and again, n at a time, with a keyed stream each, until ctx
// ends. None may fail. The latencies are those of connect and handshake.
func (g *gateway) visitors(ctx context.Context, n int, dial func() (*echoing, error)) (took *latencies, wait func()) {
	took = &latencies{}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				c, err := dial()
				if err == nil {
					took.add(time.Since(began))
					err = errors.Join(c.exchange(exchangeSize), c.finish())
				}
				if err != nil {
					g.t.Errorf("a connection after %v: %v", time.Since(began).Round(time.Millisecond), err)
					return
				}
			}
		})
	}
	return took, wg.Wait
}
