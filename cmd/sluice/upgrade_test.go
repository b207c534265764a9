// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T47: a gateway of another version is upgraded, rolled back, and so on, under new
// connections and long ones. Nobody is refused, reset, or gets a wrong byte, and what each
// version has left pinned does not keep the other one from splicing.
func TestAnUpgradeAndItsRollbackRefuseNobody(t *testing.T) {
	other := os.Getenv("SLUICE_BEFORE")
	if other == "" {
		t.Skip("SLUICE_BEFORE names no program of another version: make upgrade BEFORE=COMMIT")
	}
	needRoot(t)
	const times, rate = 20, 100
	count := &figures.Figures{Faults: times}
	figures.Record(t, count)
	metrics := "127.0.0.1:" + freePort(t)
	g := launch(t, serveTCP(t, echo), nil, "-metrics", metrics, "-drain-timeout", "1m")
	own := g.cmd.Args[0]
	ctx, stop := context.WithCancel(t.Context())
	short := g.arrivals(ctx, rate)
	defer func() { stop(); short() }()
	for i := range times {
		if g.cmd.Args[0] = other; i%2 == 1 {
			g.cmd.Args[0] = own
		}
		g.takenOver(func() {})
		eventually(t, "connections are spliced", func() bool {
			return allCounts(t, http.DefaultClient, metrics)[`sluice_bytes_total{direction="up",path="spliced"}`] > 0
		})
	}
	stop()
	count.Connections = short() + times
	count.Bytes = short()<<12 + times*200<<10
	count.What = fmt.Sprintf("take-overs, to a program of %s and back", os.Getenv("SLUICE_BEFORE_VERSION"))
	t.Log(count.Connections, count.What)
	if err := g.end(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}
