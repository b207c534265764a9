// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Row is what all windows of one peer in one scenario say together.
type Row struct {
	Scenario string `json:"scenario"`
	Peer     string `json:"peer"`
	Unit     string `json:"unit"`
	Rounds   int    `json:"rounds"` // that succeeded
	Failed   int    `json:"failed"`
	// Min and Median are gateway CPU time per unit, in Unit; Backend is the
	// median of the backend's.
	Min     float64 `json:"min"`
	Median  float64 `json:"median"`
	Backend float64 `json:"backend_median"`
	// Ratio is to the reference peer; nil for itself or when it was not measured.
	Ratio *Ratio `json:"ratio,omitempty"`
	// P50 and P99 are medians of the rounds, in µs; 0 for bulk.
	P50 float64 `json:"p50_us,omitempty"`
	P99 float64 `json:"p99_us,omitempty"`
	// Spliced is the median share of the payload; nil when not counted.
	Spliced *float64 `json:"spliced,omitempty"`
}

// summarize makes the rows of a run, in the order of scenarios and peers.
func summarize(scenarios []Scenario, peers []Peer, windows []Window) []Row {
	var rows []Row
	for _, s := range scenarios {
		ref := perUnit(windows, s.Name, reference)
		for _, p := range peers {
			row := Row{Scenario: s.Name, Peer: p.Name, Unit: s.Unit}
			var values, backend, p50, p99, spliced []float64
			for _, w := range windows {
				if w.Scenario != s.Name || w.Peer != p.Name {
					continue
				}
				if w.Error != "" {
					row.Failed++
					continue
				}
				values, backend = append(values, w.PerUnit), append(backend, w.BackendPerUnit)
				if w.Latency != nil {
					p50, p99 = append(p50, w.Latency.P50), append(p99, w.Latency.P99)
				}
				if w.Spliced != nil {
					spliced = append(spliced, *w.Spliced)
				}
			}
			row.Rounds = len(values)
			if row.Rounds > 0 {
				row.Min, row.Median, row.Backend = minimum(values), median(values), median(backend)
			}
			if len(p50) > 0 {
				row.P50, row.P99 = median(p50), median(p99)
			}
			if len(spliced) > 0 {
				share := median(spliced)
				row.Spliced = &share
			}
			if r := compare(perUnit(windows, s.Name, p.Name), ref); p.Name != reference && r.Rounds > 0 {
				row.Ratio = &r
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// perUnit is the gateway CPU per unit by round.
func perUnit(windows []Window, scenario, peer string) map[int]float64 {
	values := map[int]float64{}
	for _, w := range windows {
		if w.Scenario == scenario && w.Peer == peer && w.Error == "" {
			values[w.Round] = w.PerUnit
		}
	}
	return values
}

// writeTable prints the rows for people.
func writeTable(out io.Writer, rows []Row) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "scenario\tgateway\tunit\tCPU min\tmedian\tvs "+reference+"\tbackend CPU\tp50 µs\tp99 µs\tspliced\trounds\t")
	last := ""
	for _, r := range rows {
		name := r.Scenario
		if name == last {
			name = ""
		} else if last != "" {
			fmt.Fprintln(t, "\t\t\t\t\t\t\t\t\t\t\t")
		}
		last = r.Scenario
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", name, r.Peer, r.Unit,
			figure(r.Min), figure(r.Median), r.ratio(), figure(r.Backend),
			figure(r.P50), figure(r.P99), r.spliced(), r.rounds())
	}
	return t.Flush()
}

// figure prints a value with about three digits, and nothing for none.
func figure(v float64) string {
	switch {
	case v == 0:
		return ""
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func (r Row) ratio() string {
	if r.Ratio == nil {
		return ""
	}
	return fmt.Sprintf("%.2fx (%d/%d)", r.Ratio.Median, r.Ratio.Better, r.Ratio.Rounds)
}

func (r Row) spliced() string {
	if r.Spliced == nil {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100**r.Spliced)
}

func (r Row) rounds() string {
	if r.Failed == 0 {
		return fmt.Sprint(r.Rounds)
	}
	return fmt.Sprintf("%d, %d failed", r.Rounds, r.Failed)
}

// worst is the window with the most CPU time taken by others, for the footer.
func worst(windows []Window) Window {
	if len(windows) == 0 {
		return Window{}
	}
	return slices.MaxFunc(windows, func(a, b Window) int { return cmp.Compare(a.Others+a.Steal, b.Others+b.Steal) })
}
