// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/leak"
)

// T15: a gateway that runs out of the memory of its cgroup is killed by the kernel:
// to its clients and backends as any other kill, and another one serves at once.
func TestAGatewayOutOfMemoryLooksFinishedToNobody(t *testing.T) {
	needRoot(t)
	count := &figures.Figures{Connections: 200, Faults: 1}
	figures.Record(t, count)
	bytes, served := killUnderStreams(t, "auto", 200, outOfMemory)
	count.Bytes = bytes
	count.What = fmt.Sprintf("OOM kill; started again at once, it served after %v", served.Round(time.Millisecond))
	t.Log(count.What)
}

// outOfMemory leaves a gateway little more memory than it has, and connects until
// that is used up.
func outOfMemory(g *gateway) {
	g.t.Helper()
	dir := memoryCgroup(g.t, 4<<20)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(g.cmd.Process.Pid)), 0o600); err != nil {
		g.t.Fatal(err)
	}
	for range 20_000 {
		select {
		case <-g.exited:
			if events := memoryEvents(dir); !strings.Contains(events, "oom_kill 1") {
				g.t.Errorf("it ended by something else (%v):\n%s", g.err, events)
			}
			return
		default:
		}
		if c, err := g.connect(); err == nil {
			defer c.Close()
		}
	}
	g.t.Fatal("the gateway has not run out of memory")
}

// memoryCgroup makes a cgroup with room for so many bytes, of version 2 where that counts
// memory, else of version 1.
func memoryCgroup(t *testing.T, limit int64) string {
	t.Helper()
	for _, kind := range []struct{ root, limit string }{
		{"/sys/fs/cgroup", "memory.max"}, {"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}} {
		dir, err := os.MkdirTemp(kind.root, leak.Name()) // bench/leak looks for what is left
		if err != nil {
			continue
		}
		t.Cleanup(func() { // after the gateway, which has ended
			if t.Failed() {
				t.Log(memoryEvents(dir))
			}
			_ = os.Remove(dir)
		})
		if _, err := os.Stat(filepath.Join(dir, kind.limit)); err != nil {
			continue // a plain folder, or without the controller
		}
		setMemoryLimit(t, dir, limit)
		return dir
	}
	t.Skip("no cgroup of this machine limits memory")
	return ""
}

// setMemoryLimit changes that of a cgroup.
func setMemoryLimit(t *testing.T, cgroup string, limit int64) {
	t.Helper()
	file := filepath.Join(cgroup, "memory.max")
	if _, err := os.Stat(file); err != nil {
		file = filepath.Join(cgroup, "memory.limit_in_bytes")
	}
	if err := os.WriteFile(file, []byte(strconv.FormatInt(limit, 10)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// within starts a command in a cgroup.
func within(cgroup string) []string {
	return []string{"sh", "-c", `echo $$ >"$0"/cgroup.procs && exec "$@"`, cgroup}
}

// memoryEvents is what the kernel counts of a cgroup that has no memory left.
func memoryEvents(cgroup string) string {
	var events []byte
	for _, name := range []string{"memory.oom_control", "memory.events"} {
		b, _ := os.ReadFile(filepath.Join(cgroup, name))
		events = append(events, b...)
	}
	return string(events)
}
