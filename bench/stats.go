// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
)

// minimum is the smallest value, NaN without values. On a machine that others
// use too, it is the figure least disturbed.
func minimum(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Min(values)
}

// median is the middle value, or the mean of the middle two, NaN without
// values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Ratio compares a peer with the reference by the rounds that have both.
type Ratio struct {
	// Median is that of the rounds' ratios.
	Median float64 `json:"median"`
	// Better is the number of rounds with a ratio under 1, of Rounds.
	Better int `json:"better"`
	Rounds int `json:"rounds"`
}

// compare pairs the values of two peers by round.
func compare(peer, reference map[int]float64) Ratio {
	var r Ratio
	var ratios []float64
	for round, v := range peer {
		ref, ok := reference[round]
		if !ok || ref == 0 {
			continue
		}
		ratios = append(ratios, v/ref)
		r.Rounds++
		if v < ref {
			r.Better++
		}
	}
	r.Median = median(ratios)
	return r
}

// turn is the order of n peers in a round. Rounds run forth and back (ABBA),
// so that a drift of the machine meets every peer alike, and each pair of
// rounds begins with the next peer.
func turn(round, n int) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = (i + round/2) % n
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}
