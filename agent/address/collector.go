// SPDX-License-Identifier: Apache-2.0

package address

import (
	"github.com/prometheus/client_golang/prometheus"
)

var (
	heldDesc = prometheus.NewDesc("sluice_address_held",
		"Whether this node has an address that it is to hold.", []string{"address"}, nil)
	movesDesc = prometheus.NewDesc("sluice_address_moves_total",
		"Addresses that this node took, and that it let go of.", []string{"move"}, nil)
)

// Describe implements prometheus.Collector.
func (h *Holder) Describe(ch chan<- *prometheus.Desc) {
	ch <- heldDesc
	ch <- movesDesc
}

// Collect implements prometheus.Collector.
func (h *Holder) Collect(ch chan<- prometheus.Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for a, s := range h.want {
		held := 0.0
		if s.own || s.link != 0 {
			held = 1
		}
		ch <- prometheus.MustNewConstMetric(heldDesc, prometheus.GaugeValue, held, a.String())
	}
	ch <- prometheus.MustNewConstMetric(movesDesc, prometheus.CounterValue, float64(h.taken), "taken")
	ch <- prometheus.MustNewConstMetric(movesDesc, prometheus.CounterValue, float64(h.released), "released")
}
