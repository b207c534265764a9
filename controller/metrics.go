// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the controller counts, besides what controller-runtime and
// client-go do.
type metrics struct {
	translations prometheus.Histogram
	objects      *prometheus.GaugeVec   // kind
	published    prometheus.Gauge       //
	writes       *prometheus.CounterVec // object, result
	problems     prometheus.Gauge
	nodes        prometheus.Gauge
	leader       prometheus.Gauge
}

// newMetrics registers the metrics, once for all controllers of a process.
func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
	}
	return &metrics{
		translations: register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sluice_controller_translation_seconds", Help: "How long it took to translate all objects.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)})),
		objects: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_controller_objects", Help: "Objects that were translated last, by kind."}, []string{"kind"})),
		published: gauge("sluice_controller_published_gateways", "Gateways that are published to the nodes."),
		writes: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_controller_status_writes_total", Help: "Statuses written, by result: written, conflict, gone or failed."}, []string{"result"})),
		problems: gauge("sluice_controller_problems", "Problems of objects, as their statuses tell them."),
		nodes:    gauge("sluice_controller_nodes", "Nodes whose agents live."),
		leader:   gauge("sluice_controller_leader", "1 while this replica writes, else 0."),
	}
}

// register registers a collector, or returns the one that has its name.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	err := r.Register(c)
	if have := (prometheus.AlreadyRegisteredError{}); errors.As(err, &have) {
		return have.ExistingCollector.(C)
	}
	if err != nil {
		panic("controller: metrics are what they are: " + err.Error())
	}
	return c
}
