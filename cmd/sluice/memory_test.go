// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T41: a gateway in a cgroup of 256 MiB takes 9,500 connections, as many as its
// descriptors allow, and sheds none.
func TestManyConnectionsStayBelowALimitOfMemory(t *testing.T) {
	limit, connections, workers := int64(1<<30), 500, 8 // the race detector takes memory, too
	if full {
		limit, connections = 256<<20, 9500
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			needRoot(t)
			cgroup := memoryCgroup(t, limit)
			count := &figures.Figures{Connections: int64(connections), Bytes: int64(connections) * 2 * exchangeSize}
			figures.Record(t, count)
			metrics := "127.0.0.1:" + freePort(t)
			g := launch(t, serveTCP(t, echo), within(cgroup), "-splice", splice, "-metrics", metrics)
			before := g.holds(metrics)
			peak := peakMemory(t, cgroup)
			var mu sync.Mutex
			var all []*echoing
			var wg sync.WaitGroup
			for w := range workers {
				wg.Go(func() {
					for range (connections + w) / workers {
						c, err := g.echoing()
						if err == nil {
							_ = c.SetDeadline(time.Now().Add(20 * time.Minute))
							err = c.exchange(exchangeSize)
						}
						if err != nil {
							t.Errorf("a connection: %v", err)
							return
						}
						mu.Lock()
						all = append(all, c)
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			there := g.holds(metrics)
			for i, c := range all {
				if err := errors.Join(c.exchange(exchangeSize), c.finish()); err != nil {
					t.Errorf("connection %d of %d: %v", i, len(all), err)
				}
			}
			highest := peak()
			if n := allCounts(t, http.DefaultClient, metrics)[shedConnections]; n != 0 {
				t.Errorf("%v connections were shed", n)
			}
			count.What = fmt.Sprintf("a cgroup of %d MiB, of which at most %.1f in use; before %v, with %d connections %v, after %v",
				limit>>20, float64(highest)/(1<<20), before, len(all), there, g.settles(metrics, before))
			t.Log(count.What)
		})
	}
}

// T41, with less memory than the connections that come would need: those that are too
// many are reset, those that are there go on, and when some leave others can come. The
// kernel ends nothing.
func TestAFullGatewayShedsNewConnections(t *testing.T) {
	room, most, more := int64(24<<20), 5000, int64(100)
	if full {
		room, most, more = 72<<20, 9500, 2000
	}
	if raced() {
		t.Skip("the race detector does not give its own memory back")
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			needRoot(t)
			cgroup := memoryCgroup(t, 1<<40)
			count := &figures.Figures{}
			figures.Record(t, count)
			metrics := "127.0.0.1:" + freePort(t)
			g := launch(t, serveTCP(t, echo), within(cgroup), "-splice", splice, "-metrics", metrics)
			limit := workingSet(cgroup) + room
			setMemoryLimit(t, cgroup, limit)
			peak := peakMemory(t, cgroup)
			var mu sync.Mutex
			var open []*echoing
			var wg sync.WaitGroup
			for range 32 { // at once, for handshakes need memory, too
				wg.Go(func() {
					for {
						mu.Lock()
						over := count.Faults >= more || len(open) >= most || t.Failed()
						mu.Unlock()
						if over {
							return
						}
						c, err := g.echoing()
						if err == nil {
							_ = c.SetDeadline(time.Now().Add(20 * time.Minute))
							err = c.exchange(exchangeSize)
						}
						mu.Lock()
						switch {
						case err == nil:
							open = append(open, c)
						case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
							count.Faults++
						default:
							t.Errorf("connection %d: %v", len(open), err)
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if len(open) >= most {
				t.Fatalf("%d connections, none too many for %d MiB", most, limit>>20)
			}
			eventually(t, "each that was shed is counted", func() bool {
				return int64(allCounts(t, http.DefaultClient, metrics)[shedConnections]) == count.Faults
			})
			if !strings.Contains(g.logged(), "of the limit of the cgroup") {
				t.Error("the log does not say what to do")
			}
			there := len(open)
			count.Connections, count.Bytes = int64(there), int64(there)*2*exchangeSize
			for i, c := range open {
				err := c.exchange(exchangeSize)
				if i%2 == 0 {
					err = errors.Join(err, c.finish())
				}
				if err != nil {
					t.Errorf("connection %d of %d: %v", i, there, err)
				}
			}
			eventually(t, "others can come", func() bool {
				c, err := g.echoing()
				if err != nil {
					return false
				}
				return errors.Join(c.exchange(exchangeSize), c.finish()) == nil
			})
			for i := 1; i < there; i += 2 {
				if err := errors.Join(open[i].exchange(exchangeSize), open[i].finish()); err != nil {
					t.Errorf("connection %d of %d: %v", i, there, err)
				}
				count.Bytes += exchangeSize
			}
			if events := memoryEvents(cgroup); !strings.Contains(events, "oom_kill 0") {
				t.Errorf("the kernel ran out of memory: %s", events)
			}
			count.What = fmt.Sprintf("connections too many for a cgroup of %d MiB, reset; at most %.1f MiB in use", limit>>20, float64(peak())/(1<<20))
			t.Log(count.Connections, count.Faults, count.What)
		})
	}
}

// raced tells whether this is built with the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// shedConnections is a series of the metrics.
const shedConnections = `sluice_connections_total{listener="",result="no_memory"}`

// peakMemory watches how much of its memory a cgroup has in use, until the function that
// it returns is called. That returns the most.
func peakMemory(t *testing.T, cgroup string) func() int64 {
	t.Helper()
	var peak int64
	watched, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				peak = max(peak, workingSet(cgroup))
			}
		}
	}()
	end := sync.OnceValue(func() int64 {
		close(stop)
		<-watched
		return peak
	})
	t.Cleanup(func() { end() })
	return end
}

// workingSet is what a cgroup has in use, but for files.
func workingSet(cgroup string) int64 {
	var used int64
	for _, name := range []string{"memory.current", "memory.usage_in_bytes"} {
		if b, err := os.ReadFile(filepath.Join(cgroup, name)); err == nil {
			used, _ = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		}
	}
	stat, _ := os.ReadFile(filepath.Join(cgroup, "memory.stat"))
	for line := range strings.Lines(string(stat)) {
		// Version 2 has "file", version 1 "cache".
		if fields := strings.Fields(line); fields[0] == "file" || fields[0] == "cache" {
			files, _ := strconv.ParseInt(fields[1], 10, 64)
			used -= files
		}
	}
	return used
}
