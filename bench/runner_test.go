// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

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

func TestEveryScenarioCanBeChosenByItsName(t *testing.T) {
	name := func(s Scenario) string { return s.Name }
	for _, s := range scenarios(1) {
		if got := pick(scenarios(1), s.Name, name); len(got) != 1 || got[0].Name != s.Name {
			t.Errorf("%q chooses %d", s.Name, len(got))
		}
	}
}

func TestAnOpenLoopEndsInTimeAtAnyRate(t *testing.T) {
	s := Scenario{Open: true, Connections: 16, Measured: Work{Op: Echo, Size: 100, Count: 1000}}
	for rate, want := range map[float64]int64{1e6: 1000, 4000: 1000, 2000: 500, 1: 1} {
		if got := s.paced(rate).Measured.Count; got != want {
			t.Errorf("%v a second: %d messages of each connection, want %d", rate, got, want)
		}
	}
	s.Open = false
	if got := s.paced(1).Measured.Count; got != 1000 {
		t.Errorf("a closed loop has %d messages, want 1000", got)
	}
}
