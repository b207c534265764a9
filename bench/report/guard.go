// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// Latest reads the newest results of a folder; the report is nil when it has none.
func Latest(dir string) (*Report, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*-figures.json")) // sorted, and they begin with a date
	if err != nil || len(files) == 0 {
		return nil, err
	}
	return Load(files[len(files)-1])
}

// Change is what became of Sluice's figure over another gateway's since an
// earlier run. The speed of the machine cancels out.
type Change struct {
	Scenario, Peer, To string
	// Now and Then are the ratios of the rounds, sorted; Then is empty when the
	// earlier run did not have them.
	Now, Then []float64
}

// Changes compares a run with an earlier one, nil for none.
func (r *Report) Changes(then *Report) (changes []Change) {
	for _, s := range r.Scenarios {
		for _, peer := range []string{Spliced, Relay} {
			for _, to := range r.Peers {
				c := Change{Scenario: s.Name, Peer: peer, To: to, Now: r.ratios(s.Name, peer, to)}
				if !Other(to) || len(c.Now) == 0 {
					continue
				}
				if then != nil {
					c.Then = then.ratios(s.Name, peer, to)
				}
				changes = append(changes, c)
			}
		}
	}
	return changes
}

// ratios are those of the rounds that both peers have, sorted.
func (r *Report) ratios(scenario, peer, to string) []float64 {
	ratios := pair(r.values(scenario, peer, perUnit), r.values(scenario, to, perUnit))
	return slices.Sorted(maps.Values(ratios))
}

// least is the smallest change that is told: less may be the compiler's mood.
const least = 1.05

// Worse tells whether the ratio rose by more than noise allows: its median by a
// twentieth, and every round is above nine tenths of those before. Were nothing
// changed, three rounds would be so in 4 of the 286 orders that they and ten before
// can have.
func (c Change) Worse() bool {
	return len(c.Then) > 0 && c.Factor() > least && c.Now[0] > c.Then[(len(c.Then)*9+9)/10-1]
}

// Better is the opposite of Worse.
func (c Change) Better() bool {
	return len(c.Then) > 0 && c.Factor() < 1/least && c.Now[len(c.Now)-1] < c.Then[len(c.Then)/10]
}

// Factor is by how much the median of the ratio has changed, NaN when it is not
// known.
func (c Change) Factor() float64 {
	if len(c.Then) == 0 {
		return math.NaN()
	}
	return median(c.Now) / median(c.Then)
}

// WriteChanges prints changes for people, and returns how many are for the worse.
func WriteChanges(out io.Writer, changes []Change) (worse int, err error) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\tratio\tnow [rounds]\tthen [rounds]\tchange\t")
	for _, c := range changes {
		before, change, verdict := "not measured", "", ""
		if len(c.Then) > 0 {
			before, change = spread(c.Then), fmt.Sprintf("%+.0f %%", 100*(c.Factor()-1))
		}
		switch {
		case c.Worse():
			verdict = "WORSE than noise allows"
			worse++
		case c.Better():
			verdict = "better"
		}
		fmt.Fprintf(t, "%s\t%s / %s\t%s\t%s\t%s\t%s\n", c.Scenario, c.Peer, c.To, spread(c.Now), before, change, verdict)
	}
	return worse, t.Flush()
}

// spread is the median of sorted values with the lowest and the highest.
func spread(sorted []float64) string {
	return fmt.Sprintf("%.2f [%.2f, %.2f]", median(sorted), sorted[0], sorted[len(sorted)-1])
}
