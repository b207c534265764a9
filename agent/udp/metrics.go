// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/prometheus/client_golang/prometheus"
)

// Describe implements prometheus.Collector.
func (f *Forwarder) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{datagramsDesc, bytesDesc, sessionsDesc, activeDesc, refusedDesc} {
		ch <- d
	}
}

var (
	datagramsDesc = prometheus.NewDesc("sluice_udp_datagrams_total",
		"Datagrams of UDP sessions; up is from the client.", []string{"listener", "direction"}, nil)
	bytesDesc = prometheus.NewDesc("sluice_udp_bytes_total",
		"Bytes of UDP sessions with IP headers; up is from the client.", []string{"listener", "direction"}, nil)
	sessionsDesc = prometheus.NewDesc("sluice_udp_sessions_total",
		"UDP sessions that began.", []string{"listener"}, nil)
	activeDesc = prometheus.NewDesc("sluice_udp_sessions_active",
		"UDP sessions that are not idle yet.", []string{"listener"}, nil)
	refusedDesc = prometheus.NewDesc("sluice_udp_datagrams_refused_total",
		"Datagrams that had no endpoint to go to.", []string{"listener"}, nil)
)

// Collect implements prometheus.Collector. The kernel counts; this only reads.
func (f *Forwarder) Collect(ch chan<- prometheus.Metric) {
	f.mu.Lock()
	listeners, counters := f.written, f.counters()
	f.mu.Unlock()
	for _, l := range listeners {
		send := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{l.name}, labels...)...)
		}
		for _, direction := range []string{"up", "down"} {
			c := counters[object(direction, l.name)]
			send(datagramsDesc, c.Packets, direction)
			send(bytesDesc, c.Bytes, direction)
		}
		send(sessionsDesc, counters[object("begun", l.name)].Packets)
		send(refusedDesc, counters[object("refused", l.name)].Packets)
	}
	for name, n := range f.Sessions() {
		ch <- prometheus.MustNewConstMetric(activeDesc, prometheus.GaugeValue, float64(n), name)
	}
}

// counters reads the counters of the table, none when it cannot be read. The
// library keeps what it reads of timeouts in a variable of its own: f.mu is
// held.
func (f *Forwarder) counters() map[string]expr.Counter {
	out := map[string]expr.Counter{}
	if len(f.written) == 0 {
		return out
	}
	conn, err := dial()
	if err != nil {
		return out
	}
	objects, err := conn.GetNamedObjects(table)
	if err != nil {
		f.log.Warn("UDP counters cannot be read", "error", err)
		return out
	}
	for _, o := range objects {
		named := o.(*nftables.NamedObj)
		if c, ok := named.Obj.(*expr.Counter); ok {
			out[named.Name] = *c
		}
	}
	return out
}

// Sessions counts the sessions of each listener that is served.
func (f *Forwarder) Sessions() map[string]int {
	f.mu.Lock()
	listeners := f.written
	f.mu.Unlock()
	if len(listeners) == 0 {
		return nil
	}
	n, err := sessions(listeners)
	if err != nil {
		f.log.Warn("UDP sessions cannot be counted", "error", err)
	}
	return n
}
