// SPDX-License-Identifier: Apache-2.0

package report

import (
	"maps"
	"math"
	"math/rand/v2"
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

// Ratio compares a peer with another by the rounds that have both.
type Ratio struct {
	// To is the other peer.
	To string `json:"to"`
	// Median is that of the rounds' ratios, Low and High bound its 95 %
	// confidence interval, 0 with fewer than six rounds: five do not give one.
	Median float64 `json:"median"`
	Low    float64 `json:"low,omitempty"`
	High   float64 `json:"high,omitempty"`
	// Better is the number of rounds with a ratio under 1, of Rounds.
	Better int `json:"better"`
	Rounds int `json:"rounds"`
}

// pair is the ratios of the rounds that two peers have.
func pair(peer, other map[int]float64) map[int]float64 {
	ratios := map[int]float64{}
	for round, v := range peer {
		if ref, ok := other[round]; ok && ref != 0 {
			ratios[round] = v / ref
		}
	}
	return ratios
}

// compare sums up the ratios of two peers by round.
func compare(peer, other map[int]float64) Ratio {
	ratios := slices.Sorted(maps.Values(pair(peer, other)))
	r := Ratio{Median: median(ratios), Rounds: len(ratios)}
	for _, v := range ratios {
		if v < 1 {
			r.Better++
		}
	}
	if len(ratios) >= 6 { // the chance that all of five lie on one side is 2/2^5, more than 5 %
		r.Low, r.High = interval(ratios)
	}
	return r
}

// interval is the 95 % confidence interval of the median: the bootstrap's
// percentiles (Efron, 1979). The same values give the same interval.
func interval(values []float64) (low, high float64) {
	const resamples = 4000
	random := rand.New(rand.NewPCG(1, 1))
	medians := make([]float64, resamples)
	sample := make([]float64, len(values))
	for i := range medians {
		for j := range sample {
			sample[j] = values[random.IntN(len(values))]
		}
		medians[i] = median(sample)
	}
	slices.Sort(medians)
	return medians[resamples*25/1000], medians[resamples*975/1000-1]
}
