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

// writeKind shows the picture and the table of the scenarios of a kind.
func (r *Report) writeKind(out io.Writer, kind string) {
	name := r.date() + "-" + strings.ReplaceAll(kind, " ", "-")
	fmt.Fprintf(out, "\n## %s\n\n", strings.ToUpper(kind[:1])+kind[1:])
	fmt.Fprintf(out, "<picture><source media=\"(prefers-color-scheme: dark)\" srcset=\"%s-dark.svg\"><img alt=\"%s\" src=\"%[1]s.svg\"></picture>\n\n", name, kind)
	fmt.Fprintln(out, "Minimum (median), and × the minimum of the best other gateway.")
	peers := slices.DeleteFunc(r.measured(), func(p string) bool { return p == Direct })
	fmt.Fprintf(out, "\n| | unit | rounds | redirected | %s |\n|---|---|---|---|%s\n", strings.Join(peers, " | "), strings.Repeat("---|", len(peers)))
	for _, s := range r.Scenarios {
		if s.Kind == kind {
			r.writeScenario(out, s, peers)
		}
	}
}

func (r *Report) writeScenario(out io.Writer, s Scenario, peers []string) {
	rows := map[string]Row{}
	var rounds []int
	spliced := ""
	for _, row := range r.Rows {
		if row.Scenario != s.Name {
			continue
		}
		rows[row.Peer] = row
		if row.Rounds > 0 {
			rounds = append(rounds, row.Rounds)
		}
		if row.Peer == Spliced {
			spliced = row.spliced()
		}
	}
	if len(rounds) == 0 {
		return
	}
	span := fmt.Sprint(slices.Max(rounds))
	if least := slices.Min(rounds); least != slices.Max(rounds) {
		span = fmt.Sprintf("%d to %s", least, span)
	}
	fmt.Fprintf(out, "| %s | %s | %s | %s |", s.Name, s.Unit, span, spliced)
	best := rows[r.best(s.Name, perUnit)]
	for _, p := range peers {
		fmt.Fprintf(out, " %s |", rows[p].cell(best))
	}
	fmt.Fprintln(out)
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
