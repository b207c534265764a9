// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"cmp"
	"crypto/tls"
	"errors"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-gateway/sluice/terminator/relay"
)

// Metrics counts what a Server does. It is a prometheus.Collector; its names
// are stable:
//
//	sluice_connections_total{listener,result}  connections that ended, by how
//	sluice_connections_active{listener}        open connections
//	sluice_handshakes_total{result,version}    TLS handshakes: ok, resumed, failed, timeout
//	sluice_handshakes_waiting{}                TLS handshakes that wait for their turn to compute
//	sluice_handshake_seconds{}                 accept to established, histogram
//	sluice_bytes_total{direction,path}         payload, direction up is from the client
//	sluice_first_byte_seconds{protocol}        http: request to the header of its response; tcp: accept to
//	                                           the backend's first byte, not where the kernel carries it; histogram
//	sluice_connect_seconds{}                   to the endpoint that answered, with TLS where spoken, histogram
//	sluice_connect_failures_total{cause}       attempts to connect to an endpoint
//	sluice_endpoint_choices_total{backend,result}  endpoints chosen: ok, or the cause of the failure
//	sluice_backend_endpoints{backend,state}    endpoints: well, or failed of late
//	sluice_accept_errors_total{}               accepts that failed, descriptors used up
//
// Label values come from the snapshot (listener, backend) or from fixed sets.
type Metrics struct {
	connections     *prometheus.CounterVec
	handshakes      *prometheus.CounterVec
	handshakeTime   prometheus.Histogram
	firstByte       *prometheus.HistogramVec
	connectTime     prometheus.Histogram
	connectFailures *prometheus.CounterVec
	choices         *prometheus.CounterVec
	acceptErrors    prometheus.Counter

	server atomic.Pointer[Server]

	// bytes and flows are what was counted so far. mu also guards what of each
	// connection is in them.
	mu    sync.Mutex
	bytes map[[2]string]int64
	flows map[flowKey]*flow
	// chosen are the backends that choices has series of.
	chosen map[string]bool
}

var (
	activeDesc    = prometheus.NewDesc("sluice_connections_active", "Open client connections.", []string{"listener"}, nil)
	endpointsDesc = prometheus.NewDesc("sluice_backend_endpoints",
		"Endpoints of a backend: well, or failed, which could not be connected to of late and are tried last.", []string{"backend", "state"}, nil)
	waitingDesc = prometheus.NewDesc("sluice_handshakes_waiting", "TLS handshakes that wait for their turn to compute.", nil, nil)
	bytesDesc   = prometheus.NewDesc("sluice_bytes_total", "Payload bytes; up is from the client.", []string{"direction", "path"}, nil)
)

// NewMetrics returns counters at zero. A value serves one Server.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		connections:     counter("sluice_connections_total", "Client connections that ended, by how.", "listener", "result"),
		handshakes:      counter("sluice_handshakes_total", "TLS handshakes.", "result", "version"),
		connectFailures: counter("sluice_connect_failures_total", "Failed attempts to connect to an endpoint.", "cause"),
		choices:         counter("sluice_endpoint_choices_total", "Endpoints chosen for new connections, by what came of it: ok, or the cause of the failure to connect.", "backend", "result"),
		handshakeTime:   prometheus.NewHistogram(seconds("sluice_handshake_seconds", "Time from accept to the end of the TLS handshake.")),
		connectTime:     prometheus.NewHistogram(seconds("sluice_connect_seconds", "Time to connect to the endpoint that answered, with its TLS handshake where there is one.")),
		firstByte: prometheus.NewHistogramVec(seconds("sluice_first_byte_seconds",
			"Time to the first byte of the backend: with http from a request to the header of its response, with tcp from accept."), []string{"protocol"}),
		acceptErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "sluice_accept_errors_total", Help: "Failed accepts."}),
		bytes:        map[[2]string]int64{},
		flows:        map[flowKey]*flow{},
		chosen:       map[string]bool{},
	}
	m.connections.WithLabelValues("", string(endMemory)) // a rate needs the zero before
	m.firstByte.WithLabelValues("http")
	m.firstByte.WithLabelValues("tcp")
	for _, cause := range []string{causeRefused, causeTimeout, causeUnreachable, causeTLS, causeLocal, causeOther} {
		m.connectFailures.WithLabelValues(cause)
	}
	return m
}

// seconds are the options of a histogram of times, from what a local connection
// takes to the timeouts.
func seconds(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: name, Help: help, Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}
}

func (m *Metrics) parts() []prometheus.Collector {
	return []prometheus.Collector{m.connections, m.handshakes, m.handshakeTime, m.firstByte, m.connectTime, m.connectFailures, m.choices, m.acceptErrors}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, p := range m.parts() {
		p.Describe(ch)
	}
	ch <- activeDesc
	ch <- bytesDesc
	ch <- endpointsDesc
	ch <- waitingDesc
}

// Collect implements prometheus.Collector. Bytes of open connections, and how long
// the first one took, are counted when somebody asks: the relay pays nothing for
// them.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	s := m.server.Load()
	if s != nil {
		s.init() // waits for the one that stored it
		for key, n := range m.total(s) {
			ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.CounterValue, float64(n), key[0], key[1])
		}
	}
	for _, p := range m.parts() {
		p.Collect(ch)
	}
	if s == nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(s.turns.count()))
	now := time.Now()
	for name, b := range s.snapshot.Load().backends {
		well, failed := 0., 0.
		for _, e := range b.Endpoints() {
			if e.Well(now) {
				well++
			} else {
				failed++
			}
		}
		ch <- prometheus.MustNewConstMetric(endpointsDesc, prometheus.GaugeValue, well, name, "well")
		ch <- prometheus.MustNewConstMetric(endpointsDesc, prometheus.GaugeValue, failed, name, "failed")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, l := range s.limits {
		ch <- prometheus.MustNewConstMetric(activeDesc, prometheus.GaugeValue, float64(l.active.Load()), name)
	}
}

// total counts what the open connections have moved since the last time, and
// returns the sums.
func (m *Metrics) total(s *Server) map[[2]string]int64 {
	for _, c := range s.conns.all() {
		i := c.snapshot()
		m.count(c, &i)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.bytes)
}

// count adds what is new of a connection: its first byte from the backend, and its
// bytes, under its present path: a counter never steps back when the path changes.
func (m *Metrics) count(c *connection, i *Connection) {
	if i.Path == "" {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if first := c.progress.First.Load(); first > 0 {
		c.progress.First.Store(-first) // is counted
		m.firstByte.WithLabelValues("tcp").Observe(time.Unix(0, first).Sub(i.Start).Seconds())
	}
	up, down := max(0, i.Up-c.countedUp), max(0, i.Down-c.countedDown)
	m.bytes[[2]string{"up", i.Path}] += up
	m.bytes[[2]string{"down", i.Path}] += down
	c.countedUp, c.countedDown = c.countedUp+up, c.countedDown+down
	f := m.flowOf(i)
	f.bytes[i.Path] = Bytes{f.bytes[i.Path].Up + up, f.bytes[i.Path].Down + down}
}

// ended counts a connection.
func (m *Metrics) ended(c *connection, i *Connection, end relay.End) {
	m.connections.WithLabelValues(i.Listener, string(end)).Inc()
	m.count(c, i)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flowOf(i).ended++
}

// choice counts the choice of an endpoint of a backend by what came of it, cause
// is "" for a connection that took so long to make.
func (m *Metrics) choice(backend, cause string, took time.Duration) {
	if cause == "" {
		m.connectTime.Observe(took.Seconds())
	} else {
		m.connectFailures.WithLabelValues(cause).Inc()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chosen[backend] = true
	m.choices.WithLabelValues(backend, cmp.Or(cause, "ok")).Inc()
}

// retain drops what is counted of backends, endpoints and ways that a state has no
// place for.
func (m *Metrics) retain(st *state) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.chosen {
		if st.backends[name] == nil {
			m.choices.DeletePartialMatch(prometheus.Labels{"backend": name})
			delete(m.chosen, name)
		}
	}
	m.retainFlows(st)
}

// handshake counts the end of a handshake, cs is nil when it failed.
func (m *Metrics) handshake(c *connection, cs *tls.ConnectionState, err error) {
	switch {
	case cs == nil && errors.Is(err, os.ErrDeadlineExceeded):
		m.handshakes.WithLabelValues("timeout", "").Inc()
	case cs == nil:
		m.handshakes.WithLabelValues("failed", "").Inc()
	default:
		result := "ok"
		if cs.DidResume {
			result = "resumed"
		}
		m.handshakes.WithLabelValues(result, tls.VersionName(cs.Version)).Inc()
		m.handshakeTime.Observe(c.handshook.Seconds())
	}
}

// forget drops the series of a listener that is gone.
func (m *Metrics) forget(listener string) {
	m.connections.DeletePartialMatch(prometheus.Labels{"listener": listener})
}
