// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// Connections that fall silent together, as all that get the same news from a broker do,
// stay: what asks after their peers does not drown itself. In full size, with SLUICE_LONG
// set, for longer than the kernel takes to give up a peer.
func TestManyThatFallSilentTogetherStay(t *testing.T) {
	connections, silence := 100, time.Second
	if full {
		connections, silence = 9000, 6*time.Minute
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			if splice == "auto" {
				needRoot(t)
			}
			count := &figures.Figures{What: fmt.Sprintf("silent for %v", silence)}
			figures.Record(t, count)
			g := launch(t, serveTCP(t, echoForever), nil, "-splice", splice)
			all := make([]*echoing, connections)
			var come errgroup.Group
			come.SetLimit(64)
			for i := range all {
				come.Go(func() (err error) {
					if all[i], err = g.echoing(); err == nil {
						err = all[i].NetConn().SetDeadline(time.Now().Add(silence + 5*time.Minute))
					}
					return err
				})
			}
			if err := come.Wait(); err != nil {
				t.Fatal(err)
			}
			var failures, bytes atomic.Int64
			together := func(do func(c *echoing) error) {
				var wg sync.WaitGroup
				for _, c := range all {
					wg.Go(func() {
						if err := errors.Join(c.exchange(exchangeSize), do(c)); err != nil && failures.Add(1) <= 5 {
							t.Error(err)
						}
						bytes.Add(2 * exchangeSize)
					})
				}
				wg.Wait()
			}
			together(func(*echoing) error { return nil })
			time.Sleep(silence)
			together((*echoing).finish)
			count.Connections, count.Bytes, count.Failures = int64(connections), bytes.Load(), failures.Load()
			t.Logf("%d of %d connections were gone", count.Failures, connections)
		})
	}
}
