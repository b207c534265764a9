// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T41: a gateway that may have 256 MiB, of which the agent leaves nine tenths to Go,
// takes 9,500 connections, as many as its descriptors allow, and stays below.
func TestManyConnectionsStayBelowALimitOfMemory(t *testing.T) {
	const limit = 256 << 20
	connections, workers := 500, 8
	if full {
		connections = 9500
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			if splice == "auto" {
				needRoot(t)
			}
			count := &figures.Figures{Connections: int64(connections), Bytes: int64(connections) * 2 * exchangeSize}
			figures.Record(t, count)
			metrics := "127.0.0.1:" + freePort(t)
			g := launch(t, serveTCP(t, echo), []string{"env", fmt.Sprintf("GOMEMLIMIT=%d", limit/10*9)}, "-splice", splice, "-metrics", metrics)
			before := g.holds(metrics)
			var peak int64
			sampled, stop := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(sampled)
				for {
					select {
					case <-stop:
						return
					case <-time.After(50 * time.Millisecond):
						peak = max(peak, resident(t, g.cmd.Process.Pid))
					}
				}
			}()
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
			close(stop)
			<-sampled
			if peak > limit {
				t.Errorf("%.1f MiB at most", float64(peak)/(1<<20))
			}
			count.What = fmt.Sprintf("at most %.1f MiB; before %v, with %d connections %v, after %v",
				float64(peak)/(1<<20), before, len(all), there, g.settles(metrics, before))
			t.Log(count.What)
		})
	}
}
