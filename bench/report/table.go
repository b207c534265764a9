// SPDX-License-Identifier: Apache-2.0

package report

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

// Summarize makes the rows of all windows, in the order of scenarios and peers.
func (r *Report) Summarize() {
	r.Rows = nil
	for _, s := range r.Scenarios {
		best := r.best(s.Name, perUnit)
		for _, p := range r.Peers {
			row, ok := summary(s, p, r.Windows)
			if !ok {
				continue
			}
			row.Ratio = r.ratio(s.Name, p, Reference)
			row.Best = r.ratio(s.Name, p, best)
			r.Rows = append(r.Rows, row)
		}
	}
}

func (r *Report) ratio(scenario, peer, to string) *Ratio {
	ratio := compare(r.values(scenario, peer, perUnit), r.values(scenario, to, perUnit))
	if peer == to || peer == Direct || ratio.Rounds == 0 {
		return nil
	}
	ratio.To = to
	return &ratio
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
		if !w.Measured() {
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

// WriteTable prints the rows for people.
func (r *Report) WriteTable(out io.Writer) error {
	columns := []string{"scenario", "gateway", "unit", "min", "median", "vs " + Reference, "vs best other",
		"backend", "client", "p50 µs", "p99 µs", "spliced", "kernel kB", "rounds", ""}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	last := ""
	for _, row := range r.Rows {
		name := row.Scenario
		if name == last {
			name = ""
		} else if last != "" {
			fmt.Fprintln(t, strings.Repeat("\t", len(columns)-1))
		}
		last = row.Scenario
		fmt.Fprintln(t, strings.Join([]string{name, row.Peer, row.Unit, Figure(row.Min), Figure(row.Median), row.Ratio.text(false), row.Best.text(true),
			Figure(row.Backend), Figure(row.Client), Figure(row.P50), Figure(row.P99), row.spliced(), row.kernel(), row.rounds(), ""}, "\t"))
	}
	return t.Flush()
}

// Figure prints a value with about three digits, and nothing for none.
func Figure(v float64) string {
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
	return Figure(*r.Kernel)
}

func (r Row) rounds() string {
	if r.Failed == 0 {
		return fmt.Sprint(r.Rounds)
	}
	return fmt.Sprintf("%d, %d failed", r.Rounds, r.Failed)
}

// Worst is the window with the most CPU time taken by others, for the footer.
func (r *Report) Worst() Window {
	if len(r.Windows) == 0 {
		return Window{}
	}
	return slices.MaxFunc(r.Windows, func(a, b Window) int { return cmp.Compare(a.Others+a.Steal, b.Others+b.Steal) })
}
