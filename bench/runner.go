// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/bench/report"
)

// runner does the windows of a run that its report does not have yet.
type runner struct {
	stage    *stage
	report   *report.Report
	progress *progress
}

func (r *runner) rounds(ctx context.Context, o options, todo []Scenario, chosen []Peer) error {
	for round := range o.rounds {
		for _, scenario := range todo {
			if scenario.Rounds > 0 && round >= scenario.Rounds {
				continue
			}
			for _, i := range turn(round, len(chosen)) {
				if r.report.Has(round, scenario.Name, chosen[i].Name) {
					continue
				}
				rate, err := r.rate(ctx, scenario, chosen)
				if err != nil {
					return err
				}
				w := r.stage.measure(ctx, chosen[i], scenario.paced(rate), round, rate)
				if ctx.Err() != nil {
					return errors.Join(context.Cause(ctx), r.save(o.json))
				}
				r.report.Windows = append(r.report.Windows, w)
				r.progress.done(scenario, w)
			}
		}
		if err := r.save(o.json); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) save(path string) error {
	r.report.Load[1] = loadAverage()
	return r.report.Save(path)
}

// rate is that of an open scenario, in messages a second: half of what the
// slowest gateway does in a closed loop with the same messages. It is found
// once a run.
func (r *runner) rate(ctx context.Context, open Scenario, chosen []Peer) (float64, error) {
	if !open.Open {
		return 0, nil
	}
	if rate := r.report.Rates[open.Name]; rate > 0 {
		return rate, nil
	}
	closed := open
	closed.Open = false
	var slowest float64
	for _, p := range chosen {
		if p.Name == report.Direct {
			continue
		}
		w := r.stage.measure(ctx, p, closed, 0, 0)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if !w.Measured() {
			r.progress.say(fmt.Sprintf("%s: %s tells no rate: %s%s", open.Name, p.Name, w.Error, w.Lacks))
			continue
		}
		if reached := closed.Units() / w.Wall; slowest == 0 || reached < slowest {
			slowest = reached
		}
	}
	if slowest == 0 {
		return 0, fmt.Errorf("%s: no gateway tells a rate; measure at least one besides %s", open.Name, report.Direct)
	}
	r.report.Rates[open.Name] = slowest / 2
	r.progress.say(fmt.Sprintf("%s: %.0f messages a second", open.Name, slowest/2))
	return slowest / 2, nil
}

// longest is how long an open loop sends: a slow gateway among the measured makes
// it slow for all.
const longest = 4 * time.Second

// paced is an open scenario that does not take longer at a rate, with less to do
// for all gateways alike.
func (s Scenario) paced(rate float64) Scenario {
	if s.Open {
		s.Measured.Count = max(1, min(s.Measured.Count, int64(rate*longest.Seconds())/int64(s.Connections)))
	}
	return s
}

// progress tells on standard error how far a run is.
type progress struct {
	rounds       int
	total, count int
	began        time.Time
}

func newProgress(rounds int, todo []Scenario, chosen []Peer, found *report.Report) *progress {
	p := &progress{rounds: rounds, began: time.Now()}
	for round := range rounds {
		for _, s := range todo {
			for _, peer := range chosen {
				if (s.Rounds == 0 || round < s.Rounds) && !found.Has(round, s.Name, peer.Name) {
					p.total++
				}
			}
		}
	}
	return p
}

func (p *progress) say(text string) { fmt.Fprintln(os.Stderr, text) }

func (p *progress) done(s Scenario, w report.Window) {
	p.count++
	result := fmt.Sprintf("%s %s in %.1f s", report.Figure(w.PerUnit), s.Unit, w.Wall)
	switch {
	case w.Error != "":
		result = "FAILED: " + w.Error
	case w.Lacks != "":
		result = "not measured: " + w.Lacks
	}
	left := time.Since(p.began) / time.Duration(p.count) * time.Duration(p.total-p.count)
	p.say(fmt.Sprintf("%d/%d, %s left  round %d/%d  %-22s %-8s %s", p.count, p.total, left.Round(time.Second),
		w.Round+1, p.rounds, w.Scenario, w.Peer, strings.TrimSpace(result)))
}

// turn is the order of n peers in a round. Rounds run forth and back (ABBA),
// so that a drift of the machine meets every peer alike, and each pair of
// rounds begins with the next peer.
func turn(round, n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = (i + round/2) % n
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}
