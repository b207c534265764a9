// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// load is traffic under which a test changes things.
type load struct {
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	short    int           // connections that were made and finished
	longest  time.Duration // that one of them took
	failures map[string]int
	examples []error

	count figures.Figures
}

// startLoad opens long connections and has some bytes pass on each of them five
// times a second; besides, new short connections, so many a second.
func startLoad(t *testing.T, g *gateway, long, perSecond int, names ...string) *load {
	t.Helper()
	l := &load{stop: make(chan struct{}), failures: map[string]int{}}
	figures.Record(t, &l.count)
	for i := range long {
		c, err := g.dial(names[i%len(names)])
		if err != nil {
			t.Fatal(err)
		}
		l.wg.Go(func() {
			defer c.tls.Close()
			for !l.stopped(200 * time.Millisecond) {
				if err := c.exchange(16 << 10); err != nil {
					l.fail("drop", err)
					return
				}
			}
			if err := c.finish(); err != nil {
				l.fail("drop", err)
			}
		})
	}
	l.wg.Go(func() {
		for i := 0; !l.stopped(time.Second / time.Duration(perSecond)); i++ {
			l.wg.Go(func() {
				start := time.Now()
				_, err := g.once(names[i%len(names)], 2000)
				if f := (failure{}); errors.As(err, &f) {
					l.fail(f.step, fmt.Errorf("%s: %w", names[i%len(names)], err))
					return
				} else if err != nil {
					l.fail("other", err)
					return
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				l.short++
				l.longest = max(l.longest, time.Since(start))
			})
		}
	})
	return l
}

func (l *load) stopped(after time.Duration) bool {
	select {
	case <-l.stop:
		return true
	case <-time.After(after):
		return false
	}
}

func (l *load) fail(step string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[step]++
	if len(l.examples) < 5 {
		l.examples = append(l.examples, err)
	}
}

// end waits for all connections; none may have failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	l.wg.Wait()
	l.count.Connections = int64(l.short)
	for _, n := range l.failures {
		l.count.Failures += int64(n)
	}
	t.Logf("%d new connections, the longest took %v", l.short, l.longest.Round(time.Millisecond))
	if len(l.failures) > 0 {
		t.Errorf("failures: %v, for instance %q", l.failures, l.examples)
	}
	if l.short == 0 {
		t.Error("no new connection was made")
	}
}
