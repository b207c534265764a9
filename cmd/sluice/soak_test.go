// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// soakVariable is how long the gateway is soaked; make test-soak sets it.
const soakVariable = "SLUICE_SOAK"

// T10: a gateway as shipped carries idle and busy connections for an hour, while
// others come and go. Every byte is right, and afterwards it holds what it held
// before. Without SLUICE_SOAK it is small.
func TestASoakedGatewayHoldsNothingBack(t *testing.T) {
	needRoot(t)
	s := soak{T: t, lasts: 2 * time.Second, idle: 50, busy: 10, rate: 50}
	if text := os.Getenv(soakVariable); text != "" {
		var err error
		if s.lasts, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", soakVariable, err)
		}
		s.idle, s.busy, s.rate = 1000, 100, 200
	}
	count := &figures.Figures{}
	figures.Record(t, count)
	s.metrics = "127.0.0.1:" + freePort(t)
	s.g = launch(t, serveTCP(t, echoForever), nil, "-metrics", s.metrics)

	// What a process takes once, such as threads and the pools of its loops, it has
	// taken after a while like the one that is measured.
	whole := s.lasts
	s.lasts = min(max(whole/20, time.Second), 30*time.Second)
	s.carry(nil)
	before := s.settle()
	s.lasts = whole
	made, moved := s.connections.Load(), s.bytes.Load()

	samples := make(chan sample, 1<<16)
	began := time.Now()
	s.carry(samples)
	took := time.Since(began)
	close(samples)
	made, moved = s.connections.Load()-made, s.bytes.Load()-moved
	s.settle()
	after := s.g.settles(s.metrics, before)
	trend := slope(samples, took)
	if trend.leaks() {
		t.Errorf("the gateway grows: %v", trend)
	}
	if strings.Contains(s.g.logged(), "level=ERROR") {
		t.Error("the gateway logged an error")
	}
	spliced := s.spliced()
	if spliced == 0 {
		t.Error("no connection was spliced")
	}
	count.Connections, count.Bytes, count.Failures = made, moved, s.failures.Load()
	count.What = fmt.Sprintf("%v: %d idle, %d busy, %.0f new ones a second, %.0f %% of all spliced; RSS %v; before: %v, after: %v",
		took.Round(time.Second), s.idle, s.busy, float64(made-int64(s.idle+s.busy))/took.Seconds(), 100*spliced, trend, before, after)
	t.Log(count.What)
}

// soak is what goes through a gateway meanwhile.
type soak struct {
	*testing.T
	g          *gateway
	metrics    string
	lasts      time.Duration
	idle, busy int
	rate       int // new connections a second, where the machine can

	connections, bytes, failures atomic.Int64
}

// carry has connections for as long as s.lasts, and takes samples meanwhile.
func (s *soak) carry(samples chan<- sample) {
	var long []*echoing
	for range s.idle + s.busy {
		c, err := s.connect(nil)
		if err != nil {
			s.failed("a long connection", err)
			continue
		}
		_ = c.NetConn().SetDeadline(time.Now().Add(s.lasts + 10*time.Minute))
		long = append(long, c)
	}
	ctx, stop := context.WithTimeout(s.Context(), s.lasts)
	defer stop()
	var wg sync.WaitGroup
	for i, c := range long {
		if i < s.idle {
			wg.Go(func() { s.failed("an idle connection", s.keep(ctx, c, s.lasts*2/5, 100)) })
		} else {
			wg.Go(func() { s.failed("a busy connection", s.keep(ctx, c, 100*time.Millisecond, 16<<10)) })
		}
	}
	sessions := tls.NewLRUClientSessionCache(64)
	const most = 64 // at a time: a machine that is slow gets fewer a second
	slots := make(chan struct{}, most)
	tick := time.NewTicker(time.Second / time.Duration(s.rate))
	defer tick.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for n := 0; ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-second.C:
			if samples != nil {
				samples <- sample{time.Now(), resident(s.T, s.g.cmd.Process.Pid)}
			}
		case <-tick.C:
			select {
			case slots <- struct{}{}:
			default:
				continue
			}
			known := sessions
			if n++; n%2 == 0 {
				known = nil // half of them have a full handshake
			}
			wg.Go(func() {
				defer func() { <-slots }()
				s.failed("a short connection", s.short(known))
			})
		}
	}
	wg.Wait()
}

func (s *soak) failed(what string, err error) {
	if err != nil && s.failures.Add(1) <= 20 {
		s.Errorf("%s: %v", what, err)
	}
}

// keep exchanges up to size bytes every so often, and ends the connection in order.
func (s *soak) keep(ctx context.Context, c *echoing, every time.Duration, size int64) error {
	defer c.Close()
	for {
		n := 1 + rand.Int64N(size)
		if err := c.exchange(n); err != nil {
			return err
		}
		s.bytes.Add(2 * n)
		select {
		case <-ctx.Done():
			if err := c.exchange(size); err != nil {
				return err
			}
			s.bytes.Add(2 * size)
			return c.finish()
		case <-time.After(every):
		}
	}
}

func (s *soak) connect(sessions tls.ClientSessionCache) (*echoing, error) {
	c, err := s.g.connectTo(serverName, sessions)
	if err != nil {
		return nil, err
	}
	s.connections.Add(1)
	return newEchoing(c), nil
}

// short is a connection that exchanges a little and ends.
func (s *soak) short(sessions tls.ClientSessionCache) error {
	c, err := s.connect(sessions)
	if err != nil {
		return err
	}
	n := rand.Int64N(32 << 10)
	if err := errors.Join(c.exchange(n), c.finish()); err != nil {
		return err
	}
	s.bytes.Add(2 * n)
	return nil
}

// settle waits until all connections have ended, and for a moment of quiet, after
// which a gateway gives memory back.
func (s *soak) settle() holds {
	s.Helper()
	eventually(s.T, "the end of all connections", func() bool { return strings.TrimSpace(s.g.conns()) == "[]" })
	time.Sleep(4 * time.Second)
	return s.g.holds(s.metrics)
}

// spliced is the share of all connections whose backend leg was spliced.
func (s *soak) spliced() float64 {
	s.Helper()
	all := 0.
	samples := s.g.scrape(s.metrics)
	for name, n := range samples {
		if strings.HasPrefix(name, "sluice_splice_outcomes_total{") {
			all += n
		}
	}
	return samples[`sluice_splice_outcomes_total{outcome="spliced"}`] / all
}

// sample is how much memory a gateway had at a time.
type sample struct {
	at       time.Time
	resident int64
}

// trend is a line through samples.
type trend struct {
	from, to time.Duration // since the first sample
	mib      float64       // at the end
	perHour  float64       // MiB
	wrong    float64       // the standard error of perHour
}

func (t trend) String() string {
	return fmt.Sprintf("%.1f MiB, %+.2f MiB/h ± %.2f from %v to %v", t.mib, t.perHour, t.wrong, t.from.Round(time.Second), t.to.Round(time.Second))
}

// leaks tells whether memory grows by more than 1 MiB an hour, whatever the
// collector does from one moment to the next. It takes some minutes to know.
func (t trend) leaks() bool { return t.to-t.from >= 10*time.Minute && t.perHour-3*t.wrong > 1 }

// slope is the line of least squares through the second half of samples: through
// the least of each fiftieth of it, where the collector has just been.
func slope(samples <-chan sample, took time.Duration) trend {
	const parts = 50
	var least [parts]float64
	var first, last time.Time
	for s := range samples {
		if first.IsZero() {
			first = s.at
		}
		last = s.at
		at := s.at.Sub(first) - took/2
		if i := int(at * 2 * parts / took); at >= 0 && i < parts {
			if mib := float64(s.resident) / (1 << 20); least[i] == 0 || mib < least[i] {
				least[i] = mib
			}
		}
	}
	var x, y []float64
	for i, mib := range least {
		if mib > 0 {
			x, y = append(x, (0.5+float64(i)/2/parts)*took.Hours()), append(y, mib)
		}
	}
	n := float64(len(x))
	var mx, my, xx, xy, rest float64
	for i := range x {
		mx, my = mx+x[i]/n, my+y[i]/n
	}
	for i := range x {
		xx, xy = xx+(x[i]-mx)*(x[i]-mx), xy+(x[i]-mx)*(y[i]-my)
	}
	t := trend{from: took / 2, to: last.Sub(first)}
	if n < 3 {
		return t // too short to tell
	}
	t.perHour = xy / xx
	for i := range x {
		d := y[i] - my - t.perHour*(x[i]-mx)
		rest += d * d
	}
	t.wrong, t.mib = math.Sqrt(rest/(n-2)/xx), y[len(y)-1]
	return t
}
