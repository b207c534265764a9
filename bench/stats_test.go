// SPDX-License-Identifier: Apache-2.0

package main

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

func TestEveryPeerTakesEveryPlaceEquallyOften(t *testing.T) {
	const n = 4
	var places [n][n]int // by place and peer
	for round := range 2 * n {
		for place, peer := range turn(round, n) {
			places[place][peer]++
		}
	}
	for place, counts := range places {
		for peer, count := range counts {
			if count != 2 {
				t.Errorf("peer %d was %d times at place %d, want 2", peer, count, place)
			}
		}
	}
	if diff := cmp.Diff([]int{3, 2, 1, 0}, turn(1, n)); diff != "" {
		t.Error("the second round does not go back:", diff)
	}
}

func TestTheTableShowsWhatWasMeasured(t *testing.T) {
	share := 0.5
	windows := []Window{
		{Round: 0, Scenario: "upload", Peer: "spliced", PerUnit: 0.5, BackendPerUnit: 0.2, Spliced: &share},
		{Round: 0, Scenario: "upload", Peer: "haproxy", PerUnit: 1, BackendPerUnit: 0.3},
		{Round: 1, Scenario: "upload", Peer: "haproxy", PerUnit: 3, BackendPerUnit: 0.5},
		{Round: 1, Scenario: "upload", Peer: "spliced", Error: "broken"},
		{Round: 0, Scenario: "100 B x 1", Peer: "haproxy", PerUnit: 20, BackendPerUnit: 10, Latency: &Latency{P50: 50, P99: 1234}},
	}
	all := scenarios(1)
	rows := summarize([]Scenario{all[0], all[2]}, []Peer{{Name: "spliced"}, {Name: "haproxy"}}, windows)
	var got strings.Builder
	if err := writeTable(&got, rows); err != nil {
		t.Fatal(err)
	}
	var fields [][]string
	for line := range strings.Lines(got.String()) {
		if f := strings.Fields(line); len(f) > 0 {
			fields = append(fields, f)
		}
	}
	want := [][]string{
		strings.Fields("scenario gateway unit CPU min median vs haproxy backend CPU p50 µs p99 µs spliced rounds"),
		strings.Fields("upload spliced s/GB 0.50 0.50 0.50x (1/1) 0.20 50 % 1, 1 failed"),
		strings.Fields("haproxy s/GB 1.00 2.00 0.40 2"),
		strings.Fields("100 B x 1 spliced µs/rt 0"),
		strings.Fields("haproxy µs/rt 20.0 20.0 10.0 50.0 1234 1"),
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
}
