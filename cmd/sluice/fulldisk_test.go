// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T15: the disk of the access log is full. The gateway serves on, says so once,
// counts what is lost, and goes on with whole lines once there is room.
func TestAFullDiskStopsTheAccessLogOnly(t *testing.T) {
	needRoot(t)
	count := &figures.Figures{What: "lines that a full disk could not take"}
	figures.Record(t, count)
	disk := t.TempDir()
	if err := syscall.Mount("sluice-test", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // once the gateway has ended
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	metrics, log, ballast := "127.0.0.1:"+freePort(t), filepath.Join(disk, "access"), filepath.Join(disk, "ballast")
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off", "-metrics", metrics, "-access-log", log)
	fill := func() { _ = os.WriteFile(ballast, make([]byte, 2<<20), 0o600) } // as much as there is room for
	fill()
	lost := func() float64 { return g.scrape(metrics)["sluice_access_log_lost_total"] }
	for lost() < 20 { // the page that the log has begun takes a few
		if err := talk(g.port, serverName); err != nil {
			t.Fatal(err)
		}
		count.Connections++
	}
	if n := strings.Count(g.logged(), "the access log loses lines"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() string {
		if err := talk(g.port, serverName); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(g.logged(), "the access log goes on") {
			return ""
		}
		return "the access log does not go on"
	})
	lines, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	torn := 0
	for line := range bytes.Lines(lines) {
		if !bytes.HasPrefix(line, []byte("{")) || !bytes.HasSuffix(line, []byte("}\n")) {
			torn++
		}
	}
	if torn > 1 {
		t.Errorf("%d lines are torn:\n%s", torn, lines)
	}
	count.Faults = int64(lost())
	if err := g.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}
