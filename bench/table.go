// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Row is what all windows of one peer in one scenario say together.
type Row struct {
	Scenario string `json:"scenario"`
	Peer     string `json:"peer"`
	Unit     string `json:"unit"`
	Rounds   int    `json:"rounds"` // that succeeded
	Failed   int    `json:"failed"`
	// Min and Median are the gateway's figure per unit, in Unit; Backend and
	// Client are medians of those processes' CPU time.
	Min     float64 `json:"min"`
	Median  float64 `json:"median"`
	Backend float64 `json:"backend_median"`
	Client  float64 `json:"client_median"`
	// Ratio is to the reference peer, Best to the one of the others with the
	// lowest minimum; nil for itself or when it was not measured.
	Ratio *Ratio `json:"ratio,omitempty"`
	Best  *Ratio `json:"best,omitempty"`
	// P50 and P99 are medians of the rounds, in µs; 0 for bulk.
	P50 float64 `json:"p50_us,omitempty"`
	P99 float64 `json:"p99_us,omitempty"`
	// Spliced is the median share of the payload; nil when not counted.
	Spliced *float64 `json:"spliced,omitempty"`
	// Kernel is the median of the kernel's memory for a connection, kB.
	Kernel *float64 `json:"kernel_kb,omitempty"`
}

// summarize makes the rows of all windows, in the order of scenarios and peers.
func summarize(scenarios []Scenario, peers []Peer, windows []Window) []Row {
	var rows []Row
	for _, s := range scenarios {
		best := bestPeer(s.Name, peers, windows)
		for _, p := range peers {
			row, ok := summary(s, p.Name, windows)
			if !ok {
				continue
			}
			mine := perUnit(windows, s.Name, p.Name)
			row.Ratio = ratio(mine, windows, s.Name, p.Name, reference)
			row.Best = ratio(mine, windows, s.Name, p.Name, best)
			rows = append(rows, row)
		}
	}
	return rows
}

func ratio(mine map[int]float64, windows []Window, scenario, peer, to string) *Ratio {
	r := compare(mine, perUnit(windows, scenario, to))
	if peer == to || peer == direct || r.Rounds == 0 {
		return nil
	}
	r.To = to
	return &r
}

// bestPeer is the gateway with the lowest minimum that is not ours, empty when
// there is none.
func bestPeer(scenario string, peers []Peer, windows []Window) string {
	best, lowest := "", 0.0
	for _, p := range peers {
		var values []float64
		for _, v := range perUnit(windows, scenario, p.Name) {
			values = append(values, v)
		}
		if p.Metrics || p.Name == direct || len(values) == 0 {
			continue
		}
		if m := minimum(values); best == "" || m < lowest {
			best, lowest = p.Name, m
		}
	}
	return best
}

// summary is a row without ratios; ok is false when there is no window.
func summary(s Scenario, peer string, windows []Window) (row Row, ok bool) {
	row = Row{Scenario: s.Name, Peer: peer, Unit: s.Unit}
	var values, backend, client, p50, p99, spliced, kernel []float64
	for _, w := range windows {
		if w.Scenario != s.Name || w.Peer != peer {
			continue
		}
		if w.Error != "" {
			row.Failed++
		}
		if !w.figures() {
			continue
		}
		values, backend, client = append(values, w.PerUnit), append(backend, w.BackendPerUnit), append(client, w.ClientPerUnit)
		if w.Latency != nil {
			p50, p99 = append(p50, w.Latency.P50), append(p99, w.Latency.P99)
		}
		if w.Spliced != nil {
			spliced = append(spliced, *w.Spliced)
		}
		if w.Kernel != nil {
			kernel = append(kernel, *w.Kernel)
		}
	}
	row.Rounds = len(values)
	if row.Rounds > 0 {
		row.Min, row.Median, row.Backend, row.Client = minimum(values), median(values), median(backend), median(client)
	}
	if len(p50) > 0 {
		row.P50, row.P99 = median(p50), median(p99)
	}
	row.Spliced, row.Kernel = known(spliced), known(kernel)
	return row, row.Rounds+row.Failed > 0
}

// known is the median, nil without values.
func known(values []float64) *float64 {
	if len(values) == 0 {
		return nil
	}
	m := median(values)
	return &m
}

// perUnit is the gateway's figure per unit by round.
func perUnit(windows []Window, scenario, peer string) map[int]float64 {
	values := map[int]float64{}
	for _, w := range windows {
		if w.Scenario == scenario && w.Peer == peer && w.figures() {
			values[w.Round] = w.PerUnit
		}
	}
	return values
}

// writeTable prints the rows for people.
func writeTable(out io.Writer, rows []Row) error {
	columns := []string{"scenario", "gateway", "unit", "min", "median", "vs " + reference, "vs best other",
		"backend", "client", "p50 µs", "p99 µs", "spliced", "kernel kB", "rounds", ""}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	last := ""
	for _, r := range rows {
		name := r.Scenario
		if name == last {
			name = ""
		} else if last != "" {
			fmt.Fprintln(t, strings.Repeat("\t", len(columns)-1))
		}
		last = r.Scenario
		fmt.Fprintln(t, strings.Join([]string{name, r.Peer, r.Unit, figure(r.Min), figure(r.Median), r.Ratio.text(false), r.Best.text(true),
			figure(r.Backend), figure(r.Client), figure(r.P50), figure(r.P99), r.spliced(), r.kernel(), r.rounds(), ""}, "\t"))
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

func (r *Ratio) text(named bool) string {
	if r == nil {
		return ""
	}
	text := fmt.Sprintf("%.2f (%d/%d)", r.Median, r.Better, r.Rounds)
	if r.Low != 0 {
		text = fmt.Sprintf("%.2f [%.2f, %.2f] (%d/%d)", r.Median, r.Low, r.High, r.Better, r.Rounds)
	}
	if named {
		text = r.To + " " + text
	}
	return text
}

func (r Row) spliced() string {
	if r.Spliced == nil {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100**r.Spliced)
}

func (r Row) kernel() string {
	if r.Kernel == nil {
		return ""
	}
	return figure(*r.Kernel)
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
