// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/http"
	"runtime"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluice-gateway/sluice/agent/splice"
)

var (
	buildDesc = prometheus.NewDesc("sluice_build_info",
		"1, with the version as a label.", []string{"version", "goversion"}, nil)
	appliedDesc = prometheus.NewDesc("sluice_snapshot_applied_timestamp_seconds",
		"When the snapshot that is served was applied.", nil, nil)
	hashDesc = prometheus.NewDesc("sluice_snapshot_hash",
		"The first 12 hex digits of the hash of the snapshot that is served, as a number: equal numbers, equal snapshots.", nil, nil)
	expiryDesc = prometheus.NewDesc("sluice_certificate_expiry_timestamp_seconds",
		"When a certificate that is served or verified by expires, of CA certificates the last one.", []string{"certificate", "use"}, nil)
	unresolvedDesc = prometheus.NewDesc("sluice_unresolved_names",
		"Endpoint names whose last lookup failed.", nil, nil)
	memoryDesc = prometheus.NewDesc("sluice_memory_used_bytes",
		"Memory in use of that limit, garbage left out; none without a limit.", nil, nil)
	memoryLimitDesc = prometheus.NewDesc("sluice_memory_limit_bytes",
		"The limit of the cgroup, or GOMEMLIMIT, that is next: from nine tenths of it on new connections are reset.", nil, nil)
	upDesc = prometheus.NewDesc("sluice_listener_up",
		"Whether the listener is served.", []string{"listener"}, nil)
	restDesc = prometheus.NewDesc("sluice_predecessor_connections",
		"Open connections of the agent that this one has taken over from.", nil, nil)
	restUntilDesc = prometheus.NewDesc("sluice_predecessor_deadline_timestamp_seconds",
		"When the agent that this one has taken over from resets what is left of its connections.", nil, nil)
	problemsDesc = prometheus.NewDesc("sluice_problems",
		"Problems of files and objects, as sluice status lists them.", nil, nil)
)

// newSnapshots counts what Apply was given.
func newSnapshots() *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_snapshots_total",
		Help: "Snapshots that were to be served, by result: applied, or invalid, where the one before stays."}, []string{"result"})
	v.WithLabelValues("applied") // a rate needs the zero before
	v.WithLabelValues("invalid")
	return v
}

// NewLostLines counts what whoever writes the access log could not write, for
// Options.Collectors.
func NewLostLines() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_access_log_lost_total",
		Help: "Lines that the file of the access log could not take, as on a disk that is full."})
}

// collector exports what the agent itself knows.
type collector struct{ a *Agent }

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildDesc, appliedDesc, hashDesc, expiryDesc, unresolvedDesc, problemsDesc, upDesc, restDesc, restUntilDesc, memoryDesc, memoryLimitDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(buildDesc, 1, c.a.opts.Version, runtime.Version())
	if l := c.a.memory.last.Load(); l.whose != "" {
		gauge(memoryDesc, float64(l.used))
		gauge(memoryLimitDesc, float64(l.limit))
	}
	gauge(unresolvedDesc, float64(len(c.a.resolver.unresolved())))
	if r := c.a.rest.Load(); r != nil {
		gauge(restDesc, float64(r.Connections))
		if !r.Until.IsZero() && r.Connections > 0 {
			gauge(restUntilDesc, float64(r.Until.Unix()))
		}
	}
	if c.a.opts.Resources != nil {
		_, problems := c.a.opts.Resources()
		gauge(problemsDesc, float64(problems))
	}
	current := c.a.current.Load()
	if current == nil {
		return
	}
	for name, problem := range c.a.Report().Listeners {
		up := 1.
		if problem != "" {
			up = 0
		}
		gauge(upDesc, up, name)
	}
	gauge(appliedDesc, float64(current.at.UnixMilli())/1000)
	if n, err := strconv.ParseUint(current.hash[:12], 16, 64); err == nil {
		gauge(hashDesc, float64(n)) // 48 bits: exact, and no series for each snapshot
	}
	for _, cert := range current.certificates {
		for _, use := range cert.Uses {
			if !cert.NotAfter.IsZero() {
				gauge(expiryDesc, float64(cert.NotAfter.Unix()), cert.Name, use)
			}
		}
	}
}

func (a *Agent) register() {
	a.registry.MustRegister(
		collector{a},
		a.snapshots,
		a.opts.Server.Metrics,
		a.udp,
		splice.Collector{Splicer: a.splicer, Err: a.spliceErr},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	a.registry.MustRegister(a.opts.Collectors...)
}

// metricsHandler serves the port that anybody may ask: no names of clients, no
// secrets, nothing that changes anything.
func (a *Agent) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "alive") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case a.ending.Load():
			answer(w, http.StatusServiceUnavailable, "draining")
		case a.current.Load() == nil:
			answer(w, http.StatusServiceUnavailable, "no snapshot yet")
		default:
			answer(w, http.StatusOK, "ready")
		}
	})
	return mux
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text + "\n"))
}
