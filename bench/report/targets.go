// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"strings"
)

// target is what Sluice wants to reach: in each scenario its figure, the lowest
// of the rounds, is at most limit times the one that it is compared with.
type target struct {
	work      string
	scenarios []string
	figure    measure
	limit     float64
	// to is the scenario of Sluice's own to compare with, empty for the best
	// gateway of others in the same scenario.
	to string
	// absolute is a unit: the limit is not a ratio.
	absolute string
}

var targets = []target{
	{work: "bulk, local backend: gateway CPU", limit: 0.5, figure: perUnit,
		scenarios: []string{"upload", "upload x 8", "download", "download x 8"}},
	{work: "bulk, remote backend: gateway CPU", limit: 0.6, figure: perUnit,
		scenarios: []string{"remote upload", "remote download"}},
	{work: "round trips, 16 and 64 connections: gateway CPU", limit: 0.6, figure: perUnit,
		scenarios: []string{"100 B x 16", "100 B x 64", "4 KB x 16", "4 KB x 64"}},
	{work: "round trips, 1 connection: gateway CPU", limit: 0.75, figure: perUnit,
		scenarios: []string{"100 B x 1", "4 KB x 1"}},
	{work: "round trips: p50", limit: 0.75, figure: p50,
		scenarios: []string{"100 B x 1", "100 B x 16", "100 B x 64", "4 KB x 1", "4 KB x 16", "4 KB x 64"}},
	{work: "round trips: CPU of gateway and backend", limit: 0.75, figure: withBackend,
		scenarios: []string{"100 B x 1", "100 B x 16", "100 B x 64", "4 KB x 1", "4 KB x 16", "4 KB x 64"}},
	{work: "full handshake, ECDSA: gateway CPU", limit: 1, figure: perUnit,
		scenarios: []string{"handshake ECDSA", "handshake ECDSA ML-KEM"}},
	{work: "full handshake, RSA-2048: gateway CPU", limit: 1.5, figure: perUnit,
		scenarios: []string{"handshake RSA", "handshake RSA ML-KEM"}},
	{work: "resumed handshake: gateway CPU", limit: 0.9, figure: perUnit,
		scenarios: []string{"handshake resumed"}},
	{work: "plain TCP and passthrough, bulk: gateway CPU", limit: 0.6, figure: perUnit,
		scenarios: []string{"plain upload", "plain download", "passthrough upload", "passthrough download"}},
	{work: "idle connection: RSS", limit: 4, absolute: "kB", figure: perUnit,
		scenarios: []string{"idle"}},
	{work: "idle connection: RSS, kernel and BPF memory", limit: 1, figure: withKernel,
		scenarios: []string{"idle"}},
	{work: "100 busy beside 9,000 idle: p99, against without them", limit: 1.2, figure: p99, to: "100 busy",
		scenarios: []string{"100 busy beside 9000 idle"}},
	{work: "5,000 server names: handshake CPU, against one", limit: 1.02, figure: perUnit, to: "handshake ECDSA",
		scenarios: []string{"handshake 5000 names"}},
}

func withBackend(w Window) (float64, bool) { return w.PerUnit + w.BackendPerUnit, true }

func withKernel(w Window) (float64, bool) {
	if w.Kernel == nil {
		return 0, false
	}
	return w.PerUnit + *w.Kernel, true
}

func p50(w Window) (float64, bool) {
	if w.Latency == nil {
		return 0, false
	}
	return w.Latency.P50, true
}

func p99(w Window) (float64, bool) {
	if w.Latency == nil {
		return 0, false
	}
	return w.Latency.P99, true
}

// verdict is what a run says of a target.
type verdict struct {
	reached string // yes, no, or why it is not known
	figures string
}

func (r *Report) verdict(t target) verdict {
	var figures, missing []string
	reached := true
	for _, s := range t.scenarios {
		value, against := r.reach(t, s)
		if math.IsNaN(value) {
			missing = append(missing, s)
			continue
		}
		reached = reached && value <= t.limit
		figures = append(figures, fmt.Sprintf("%s %.2f%s", s, value, against))
	}
	v := verdict{"yes", strings.Join(figures, "; ")}
	switch {
	case !reached:
		v.reached = "**no**"
	case len(missing) == len(t.scenarios):
		v.reached = "not measured"
	case len(missing) > 0:
		v.reached = "not measured: " + strings.Join(missing, ", ")
	}
	return v
}

// reach is Sluice's value in a scenario of a target, NaN when it is not known,
// and what it is compared with.
func (r *Report) reach(t target, scenario string) (value float64, against string) {
	mine := r.lowest(scenario, Spliced, t.figure)
	switch {
	case t.absolute != "":
		return mine, " " + t.absolute
	case t.to != "":
		return mine / r.lowest(t.to, Spliced, t.figure), ""
	}
	best := r.best(scenario, t.figure)
	return mine / r.lowest(scenario, best, t.figure), " × " + best
}

// limitText is the limit as people write it.
func (t target) limitText() string {
	if t.absolute != "" {
		return fmt.Sprintf("≤ %v %s", t.limit, t.absolute)
	}
	return fmt.Sprintf("≤ %v ×", t.limit)
}
