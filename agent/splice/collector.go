// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	stateDesc = prometheus.NewDesc("sluice_splice_state",
		"Whether backend legs are spliced: 1, or 0 with the reason.", []string{"reason"}, nil)
	outcomesDesc = prometheus.NewDesc("sluice_splice_outcomes_total",
		"Backend legs by what became of them: spliced, or the reason why not.", []string{"outcome"}, nil)
	bytesDesc = prometheus.NewDesc("sluice_splice_bytes_total",
		"Bytes that went past TCP; up is from the client.", []string{"direction"}, nil)
	resetsDesc = prometheus.NewDesc("sluice_splice_resets_total",
		"Connections reset because their backend stopped seeing spliced bytes.", nil, nil)
)

// Collector exports the splice's metrics. Give it what Open returned: with an
// error it exports sluice_splice_state alone, with the error's reason.
type Collector struct {
	Splicer *Splicer
	Err     error
}

// Describe implements prometheus.Collector.
func (c Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, outcomesDesc, bytesDesc, resetsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	if c.Splicer == nil {
		ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, 0, reasonOf(c.Err))
		return
	}
	ch <- prometheus.MustNewConstMetric(stateDesc, prometheus.GaugeValue, 1, "")
	ch <- prometheus.MustNewConstMetric(resetsDesc, prometheus.CounterValue, float64(c.Splicer.resets.Load()))
	outcomes, err := c.Splicer.Outcomes()
	if errors.Is(err, errClosed) {
		return
	}
	if err != nil {
		ch <- prometheus.NewInvalidMetric(outcomesDesc, err)
	}
	for outcome, n := range outcomes {
		ch <- prometheus.MustNewConstMetric(outcomesDesc, prometheus.CounterValue, float64(n), outcome)
	}
	up, down, err := c.Splicer.Bytes()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(bytesDesc, err)
		return
	}
	ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(up), "up")
	ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(down), "down")
}

func reasonOf(err error) string {
	var u *Unavailable
	switch {
	case errors.As(err, &u):
		return u.Reason
	case err != nil:
		return "error"
	default:
		return ReasonOff
	}
}
