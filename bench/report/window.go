// SPDX-License-Identifier: Apache-2.0

package report

import (
	"maps"
	"math"
	"slices"
)

// Window is one scenario through one gateway in one round.
type Window struct {
	Round    int    `json:"round"`
	Peer     string `json:"peer"`
	Scenario string `json:"scenario"`
	Error    string `json:"error,omitempty"`
	// Lacks says why the gateway cannot do the scenario: no failure.
	Lacks string `json:"lacks,omitempty"`
	// Wall is in seconds.
	Wall float64 `json:"wall_seconds"`
	// CPU times of the whole window, in seconds.
	Gateway float64 `json:"gateway_cpu_seconds"`
	Backend float64 `json:"backend_cpu_seconds"`
	Client  float64 `json:"client_cpu_seconds"`
	// PerUnit is the gateway's figure per unit of the scenario, in its unit: CPU
	// time, or memory. BackendPerUnit and ClientPerUnit are CPU times.
	PerUnit        float64  `json:"gateway_per_unit"`
	BackendPerUnit float64  `json:"backend_per_unit"`
	ClientPerUnit  float64  `json:"client_per_unit"`
	Latency        *Latency `json:"latency_us,omitempty"`
	// Rate is that of an open loop, in messages a second.
	Rate float64 `json:"rate,omitempty"`
	// Kernel is the kernel's memory for a connection in the gateway's cgroup, kB;
	// nil where it is not known.
	Kernel *float64 `json:"kernel_kb,omitempty"`
	// Spliced is the share of the payload, both ways, that took the splice; nil
	// when the gateway does not count it.
	Spliced *float64 `json:"spliced,omitempty"`
	// Steal and Others are the shares of the machine's CPU time that the
	// hypervisor and processes outside the benchmark took meanwhile.
	Steal  float64 `json:"steal"`
	Others float64 `json:"others"`
	Load   string  `json:"load_average"`
}

// Measured tells whether the window has any.
func (w Window) Measured() bool { return w.Error == "" && w.Lacks == "" }

// measure is a figure, one of a window's; ok is false when it has none.
type measure func(Window) (value float64, ok bool)

func perUnit(w Window) (float64, bool) { return w.PerUnit, true }

// values are a figure of a peer in a scenario by round.
func (r *Report) values(scenario, peer string, m measure) map[int]float64 {
	values := map[int]float64{}
	for _, w := range r.Windows {
		if w.Scenario != scenario || w.Peer != peer || !w.Measured() {
			continue
		}
		if v, ok := m(w); ok {
			values[w.Round] = v
		}
	}
	return values
}

// lowest is the minimum of a figure over the rounds, NaN without rounds.
func (r *Report) lowest(scenario, peer string, m measure) float64 {
	return minimum(slices.Collect(maps.Values(r.values(scenario, peer, m))))
}

// best is the gateway with the lowest minimum that is not ours, empty when there
// is none.
func (r *Report) best(scenario string, m measure) string {
	best, lowest := "", math.Inf(1)
	for _, p := range r.Peers {
		if v := r.lowest(scenario, p, m); Other(p) && v < lowest {
			best, lowest = p, v
		}
	}
	return best
}

// Latency is that of the round trips or connections of a window, in µs: in a
// closed loop from the send, in an open one from the time when it was due.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}
