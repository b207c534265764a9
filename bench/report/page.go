// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// page is what people read of a run, in Markdown. Pictures are beside it: those
// that bench/picture makes of the same report.
func (r *Report) page() []byte {
	var out bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	p("# What the gateways cost, %s", r.date())
	p("")
	p("`make bench` wrote this page from [%s-figures.json](%[1]s-figures.json).", r.date())
	p("")
	p("%s with %d CPUs, Linux %s, TCP congestion control %s. Load average %s before and %s after.",
		r.Host.CPU, r.Host.CPUs, r.Host.Kernel, r.Host.Congestion, r.Load[0], r.Load[1])
	if w := r.Worst(); w.Scenario != "" {
		p("At worst others took %.0f %% of the CPUs and the hypervisor %.0f %% (%s, %s, round %d).",
			100*w.Others, 100*w.Steal, w.Scenario, w.Peer, w.Round+1)
	}
	if r.Setting.Share != 1 {
		p("\n**Only %v of the full work was done in each window: these figures are noisy.**", r.Setting.Share)
	}
	if r.Setting.Workers > 0 {
		p("\nEvery gateway had %d threads or processes.", r.Setting.Workers)
	}
	p("\n%s", r.picture("overview"))
	r.writeVersions(&out)
	r.writeTargets(&out)
	for _, kind := range r.kinds() {
		r.writeKind(&out, kind)
	}
	return out.Bytes()
}

func (r *Report) writeVersions(out io.Writer) {
	fmt.Fprintf(out, "\n| gateway | version |\n|---|---|\n")
	for _, p := range r.measured() {
		fmt.Fprintf(out, "| %s | %s |\n", p, r.Versions[p])
	}
	for _, p := range slices.Sorted(maps.Keys(r.Skipped)) {
		fmt.Fprintf(out, "| %s | not measured: %s |\n", p, r.Skipped[p])
	}
	fmt.Fprintf(out, "\nSluice (`%s`, and `%s` with `-splice=off`) and the client are built with %s.\n", Spliced, Relay, r.Host.Go)
}

func (r *Report) writeTargets(out io.Writer) {
	fmt.Fprintf(out, "\n## Targets\n\nSluice as it comes (`%s`), the minimum of the rounds. × is times the best other gateway in the same run.\n\n", Spliced)
	fmt.Fprintf(out, "| work | target | reached | figures |\n|---|---|---|---|\n")
	for _, t := range targets {
		v := r.verdict(t)
		fmt.Fprintf(out, "| %s | %s | %s | %s |\n", t.work, t.limitText(), v.reached, v.figures)
	}
}

// kinds are those of the scenarios that were measured.
func (r *Report) kinds() (kinds []string) {
	for _, s := range r.Scenarios {
		if !slices.Contains(kinds, s.Kind) && slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Scenario == s.Name }) {
			kinds = append(kinds, s.Kind)
		}
	}
	return kinds
}

// picture is the one with a name, for light and dark pages.
func (r *Report) picture(name string) string {
	file := r.date() + "-" + strings.ReplaceAll(name, " ", "-")
	return fmt.Sprintf(`<picture><source media="(prefers-color-scheme: dark)" srcset="%s-dark.svg"><img alt="%s" src="%[1]s.svg"></picture>`, file, name)
}

// writeKind shows the picture and the table of the scenarios of a kind.
func (r *Report) writeKind(out io.Writer, kind string) {
	fmt.Fprintf(out, "\n## %s\n\n%s\n\n", strings.ToUpper(kind[:1])+kind[1:], r.picture(kind))
	fmt.Fprintf(out, "Minimum (median), and × the minimum of the best other gateway.\n\n")
	peers := r.measured()
	gateways := slices.DeleteFunc(slices.Clone(peers), func(p string) bool { return p == Direct })
	heading(out, append([]string{"", "unit", "rounds", "redirected"}, gateways...))
	for _, s := range r.Scenarios {
		rows := r.rows(s.Name)
		if s.Kind != kind || len(rows) == 0 {
			continue
		}
		best := rows[r.best(s.Name, perUnit)]
		fmt.Fprintf(out, "| %s | %s | %s | %s |", s.Name, s.Unit, span(rows), rows[Spliced].spliced())
		for _, p := range gateways {
			fmt.Fprintf(out, " %s |", rows[p].cell(best))
		}
		fmt.Fprintln(out)
	}
	r.writeMore(out, kind, "Latency, p50 / p99 in µs, medians of the rounds.", peers, Row.latency)
	r.writeMore(out, kind, "With the kernel's memory for it, kB, median.", gateways, Row.withKernel)
}

// writeMore is a table of other figures of a kind, nothing when there are none.
func (r *Report) writeMore(out io.Writer, kind, title string, peers []string, cell func(Row) string) {
	begun := false
	for _, s := range r.Scenarios {
		rows := r.rows(s.Name)
		cells := make([]string, len(peers))
		for i, p := range peers {
			cells[i] = cell(rows[p])
		}
		if s.Kind != kind || strings.Join(cells, "") == "" {
			continue
		}
		if !begun {
			fmt.Fprintf(out, "\n%s\n\n", title)
			heading(out, append([]string{""}, peers...))
			begun = true
		}
		fmt.Fprintf(out, "| %s | %s |\n", s.Name, strings.Join(cells, " | "))
	}
}

func heading(out io.Writer, columns []string) {
	fmt.Fprintf(out, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

// rows are those of a scenario by peer.
func (r *Report) rows(scenario string) map[string]Row {
	rows := map[string]Row{}
	for _, row := range r.Rows {
		if row.Scenario == scenario {
			rows[row.Peer] = row
		}
	}
	return rows
}

// span is how many rounds the peers have that were measured.
func span(rows map[string]Row) string {
	least, most := 0, 0
	for _, row := range rows {
		if row.Rounds > 0 && (least == 0 || row.Rounds < least) {
			least = row.Rounds
		}
		most = max(most, row.Rounds)
	}
	if least == most {
		return fmt.Sprint(most)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

func (r Row) latency() string {
	if r.P50 == 0 {
		return ""
	}
	return Figure(r.P50) + " / " + Figure(r.P99)
}

func (r Row) withKernel() string {
	if r.Kernel == nil {
		return ""
	}
	return Figure(r.Median + *r.Kernel)
}

// cell is a row's figures beside those of the best other gateway.
func (r Row) cell(best Row) string {
	if r.Rounds == 0 {
		return r.failures("–")
	}
	text := fmt.Sprintf("%s (%s)", Figure(r.Min), Figure(r.Median))
	if best.Min > 0 {
		ratio := fmt.Sprintf("%.2f ×", r.Min/best.Min)
		if r.Peer == best.Peer {
			ratio = "**" + ratio + "**"
		}
		text += " " + ratio
	}
	return r.failures(text)
}

func (r Row) failures(text string) string {
	if r.Failed == 0 {
		return text
	}
	return fmt.Sprintf("%s, %d failed", text, r.Failed)
}
