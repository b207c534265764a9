// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMinimumAndMedian(t *testing.T) {
	cases := []struct {
		values      []float64
		min, median float64
	}{
		{[]float64{3}, 3, 3},
		{[]float64{4, 1}, 1, 2.5},
		{[]float64{9, 1, 5}, 1, 5},
		{[]float64{4, 3, 2, 1}, 1, 2.5},
	}
	for _, c := range cases {
		before := slices.Clone(c.values)
		if got := minimum(c.values); got != c.min {
			t.Errorf("minimum(%v) = %v", c.values, got)
		}
		if got := median(c.values); got != c.median {
			t.Errorf("median(%v) = %v", c.values, got)
		}
		if diff := cmp.Diff(before, c.values); diff != "" {
			t.Error("the values were changed:", diff)
		}
	}
	if !math.IsNaN(minimum(nil)) || !math.IsNaN(median(nil)) {
		t.Error("a figure without values")
	}
}

func TestRatiosPairTheRoundsThatBothPeersHave(t *testing.T) {
	got := compare(map[int]float64{0: 1, 1: 3, 2: 4, 4: 9}, map[int]float64{0: 2, 1: 2, 2: 8, 3: 1})
	want := Ratio{Median: 0.5, Better: 2, Rounds: 3}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheIntervalOfRatiosHoldsTheMedianAndShrinksWithRounds(t *testing.T) {
	noisy := func(rounds int) (peer, other map[int]float64) {
		peer, other = map[int]float64{}, map[int]float64{}
		for i := range rounds {
			peer[i], other[i] = 0.8+0.1*math.Sin(float64(i*7)), 1 // any spread around 0.8
		}
		return peer, other
	}
	var widths []float64
	for _, rounds := range []int{6, 60} {
		r := compare(noisy(rounds))
		if !(r.Low <= r.Median && r.Median <= r.High && r.Low < 0.8 && r.High > 0.8) {
			t.Errorf("%d rounds: interval %v to %v around %v", rounds, r.Low, r.High, r.Median)
		}
		if again := compare(noisy(rounds)); again != r {
			t.Errorf("%d rounds: %+v, and again %+v", rounds, r, again)
		}
		widths = append(widths, r.High-r.Low)
	}
	if widths[1] >= widths[0] {
		t.Errorf("widths %v do not shrink", widths)
	}
	if r := compare(noisy(5)); r.Low != 0 || r.High != 0 {
		t.Errorf("five rounds give an interval: %+v", r)
	}
}

// The median of nine values lies between the second and the eighth with
// probability 1-20/512 (binomial), which is what a bootstrap must come near.
func TestTheIntervalAgreesWithOrderStatistics(t *testing.T) {
	low, high := interval([]float64{1, 2, 3, 4, 5, 6, 7, 8, 9})
	if low < 2 || low > 3 || high < 7 || high > 8 {
		t.Errorf("interval %v to %v, want about 2 to 8", low, high)
	}
}

func TestTheTableShowsWhatWasMeasured(t *testing.T) {
	share := 0.5
	windows := []Window{
		{Round: 0, Scenario: "upload", Peer: "spliced", PerUnit: 0.5, BackendPerUnit: 0.2, Spliced: &share},
		{Round: 0, Scenario: "upload", Peer: "haproxy", PerUnit: 1, BackendPerUnit: 0.3},
		{Round: 1, Scenario: "upload", Peer: "haproxy", PerUnit: 3, BackendPerUnit: 0.5},
		{Round: 0, Scenario: "upload", Peer: "nginx", PerUnit: 0.8, BackendPerUnit: 0.3},
		{Round: 1, Scenario: "upload", Peer: "nginx", Lacks: "it does not"},
		{Round: 1, Scenario: "upload", Peer: "spliced", Error: "broken"},
		{Round: 0, Scenario: "100 B x 1", Peer: "haproxy", PerUnit: 20, BackendPerUnit: 10, Latency: &Latency{P50: 50, P99: 1234}},
	}
	r := Report{
		Scenarios: []Scenario{{Name: "upload", Unit: "s/GB"}, {Name: "100 B x 1", Unit: "µs/rt"}},
		Peers:     []string{Spliced, Reference, "nginx"},
		Windows:   windows,
	}
	r.Summarize()
	var got strings.Builder
	if err := r.WriteTable(&got); err != nil {
		t.Fatal(err)
	}
	var fields [][]string
	for line := range strings.Lines(got.String()) {
		if f := strings.Fields(line); len(f) > 0 {
			fields = append(fields, f)
		}
	}
	want := [][]string{
		strings.Fields("scenario gateway unit min median vs haproxy vs best other backend client p50 µs p99 µs spliced kernel kB rounds"),
		strings.Fields("upload spliced s/GB 0.50 0.50 0.50 (1/1) nginx 0.62 (1/1) 0.20 50 % 1, 1 failed"),
		strings.Fields("haproxy s/GB 1.00 2.00 nginx 1.25 (0/1) 0.40 2"),
		strings.Fields("nginx s/GB 0.80 0.80 0.80 (1/1) 0.30 1"),
		strings.Fields("100 B x 1 haproxy µs/rt 20.0 20.0 10.0 50.0 1234 1"),
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
}
