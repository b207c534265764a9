// SPDX-License-Identifier: Apache-2.0

package report

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rounds are windows of Sluice with some figures beside a gateway that takes 2.
func rounds(scenario string, figures ...float64) (windows []Window) {
	for i, f := range figures {
		windows = append(windows,
			Window{Round: i, Scenario: scenario, Peer: Spliced, PerUnit: f},
			Window{Round: i, Scenario: scenario, Peer: Reference, PerUnit: 2})
	}
	return windows
}

func run(windows ...[]Window) *Report {
	r := &Report{Peers: []string{Spliced, Relay, Reference, Direct}}
	for _, w := range windows {
		r.Scenarios = append(r.Scenarios, Scenario{Name: w[0].Scenario})
		r.Windows = append(r.Windows, w...)
	}
	return r
}

func TestAChangeIsToldOnlyBeyondNoise(t *testing.T) {
	before := []float64{1, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.14, 1.16, 3} // the last was disturbed
	cases := map[string]struct {
		now           []float64
		worse, better bool
	}{
		"the same":                     {[]float64{1.05, 1.1, 1.07}, false, false},
		"one round among those before": {[]float64{1.3, 1.1, 1.4}, false, false},
		"clearly more":                 {[]float64{1.3, 1.25, 1.4}, true, false},
		"more, and once disturbed":     {[]float64{1.3, 1.25, 5}, true, false},
		"above, but hardly":            {[]float64{1.17, 1.17, 1.17}, true, false},
		"clearly less":                 {[]float64{0.8, 0.9, 0.85}, false, true},
		"less, and once disturbed":     {[]float64{0.8, 0.9, 2}, false, false},
	}
	for name, c := range cases {
		changes := run(rounds("upload", c.now...)).Changes(run(rounds("upload", before...)))
		if len(changes) != 1 {
			t.Fatalf("%s: changes %+v", name, changes)
		}
		if got := changes[0]; got.Worse() != c.worse || got.Better() != c.better {
			t.Errorf("%s: worse %v, better %v: %+v", name, got.Worse(), got.Better(), got)
		}
	}
	few := Change{Now: []float64{0.52}, Then: []float64{0.5}}
	if few.Worse() {
		t.Error("a change of 4 % is told")
	}
}

func TestChangesAreBesideWhatWasCommitted(t *testing.T) {
	dir := t.TempDir()
	if then, err := Latest(dir); then != nil || err != nil {
		t.Fatalf("an empty folder has %v, error %v", then, err)
	}
	for day, figure := range []float64{0.2, 0.4, 0.3} { // written in another order than that of the days
		r := run(rounds("upload", figure, figure))
		r.Time = time.Date(2026, 1, []int{1, 3, 2}[day], 0, 0, 0, 0, time.UTC)
		if err := r.Save(r.Results(dir)); err != nil {
			t.Fatal(err)
		}
	}
	then, err := Latest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := filepath.Base(then.Results(dir)); got != "2026-01-03-figures.json" {
		t.Errorf("the newest is %s", got)
	}
	now := run(rounds("upload", 1, 1.2), rounds("download", 2))
	var out strings.Builder
	worse, err := WriteChanges(&out, now.Changes(then))
	if err != nil || worse != 1 {
		t.Errorf("%d are worse, error %v", worse, err)
	}
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"scenario ratio now [rounds] then [rounds] change",
		"upload spliced / haproxy 0.55 [0.50, 0.60] 0.20 [0.20, 0.20] +175 % WORSE than noise allows",
		"download spliced / haproxy 1.00 [1.00, 1.00] not measured",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}
