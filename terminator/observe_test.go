// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// TestAccessLogSaysWhatHappened compares the record of a connection, without
// what differs each time.
func TestAccessLogSaysWhatHappened(t *testing.T) {
	port := freePort(t)
	to := backend(t, echo)
	g := run(t, &Server{}, simple(port, certificateFor(t, "c", "a.example"), to))
	conf := client("A.example")
	conf.InsecureSkipVerify = true
	c := dialTLS(t, port, conf)
	roundTrip(t, c)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	g.waitResult(t, "done")
	var got map[string]any
	if err := json.Unmarshal([]byte(g.access.String()), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"time", "start", "client", "duration", "handshake", "connect"} {
		if got[key] == nil || got[key] == "" || got[key] == 0. {
			t.Errorf("%s: %v", key, got[key])
		}
		delete(got, key)
	}
	want := map[string]any{"level": "INFO", "msg": "connection", "id": 1., "local": address(port), "listener": "l",
		"sni": "a.example", "alpn": "", "tls_version": "TLS 1.3", "cipher_suite": "TLS_AES_128_GCM_SHA256",
		"route": "r", "backend": "b", "endpoint": fmt.Sprintf("%s:%d", to.Host, to.Port),
		"up": 5., "down": 5., "path": "relay", "reason": "", "result": "done"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestMetricsAreThoseOfTheTable gathers after one connection of each kind and
// compares names and labels with the table in the documentation of Metrics.
func TestMetricsAreThoseOfTheTable(t *testing.T) {
	port := freePort(t)
	s := &Server{Metrics: NewMetrics()}
	snap := simple(port, certificateFor(t, "c", "a.example"), refusing(t), backend(t, echo))
	g := run(t, s, snap)
	for range 5 {
		c := dialTLS(t, port, client("a.example"))
		roundTrip(t, c)
		_ = c.CloseWrite()
		_ = strict(c)
	}
	answer(t, port, []byte("GET / HTTP/1.0\r\n\r\n"))
	open := dialTLS(t, port, client("a.example"))
	roundTrip(t, open)
	eventually(t, "one connection", func() bool { return len(g.s.Connections()) == 1 })

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	values := map[string]float64{}
	for _, f := range families {
		var labels []string
		for _, m := range f.Metric {
			var at []string
			labels = nil
			for _, l := range m.Label {
				labels = append(labels, l.GetName())
				at = append(at, l.GetValue())
			}
			values[f.GetName()+" "+strings.Join(at, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		slices.Sort(labels)
		got = append(got, f.GetName()+"{"+strings.Join(labels, ",")+"}")
	}
	if diff := cmp.Diff(documented(t), got); diff != "" {
		t.Errorf("documented (-), gathered (+):\n%s", diff)
	}
	for name, want := range map[string]float64{
		"sluice_connections_total l done":    5,
		"sluice_connections_total  not_tls":  1,
		"sluice_connections_active l":        1,
		"sluice_handshakes_total ok TLS 1.3": 6,
		"sluice_handshakes_total failed ":    1,
		"sluice_bytes_total up relay":        30,
		"sluice_bytes_total down relay":      30,
		"sluice_listener_up l":               1,
	} {
		if values[name] != want {
			t.Errorf("%s is %v, want %v", name, values[name], want)
		}
	}
	snap.Listeners = nil
	g.apply(snap)
	open.NetConn().Close()
	eventually(t, "no connection", func() bool { return len(g.s.Connections()) == 0 })
	g.apply(snap)
	families, _ = registry.Gather()
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "listener" && l.GetValue() == "l" {
					t.Errorf("%s still has the listener that is gone", f.GetName())
				}
			}
		}
	}
}

// documented reads the table of metrics.go.
func documented(t *testing.T) []string {
	t.Helper()
	source := readSource(t, "metrics.go")
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(sluice_\w+\{[\w,]*\})`).FindAllStringSubmatch(source, -1) {
		names = append(names, m[1])
	}
	slices.Sort(names)
	return names
}

func TestByteCountersNeverStepBack(t *testing.T) {
	m, c := NewMetrics(), &connection{}
	m.count(c, &Connection{Path: "relay", Up: 10, Down: 5})
	m.count(c, &Connection{Path: "spliced", Up: 30, Down: 5})
	m.count(c, &Connection{Path: "spliced", Up: 20, Down: 5}) // asked for before, told after
	want := map[[2]string]int64{
		{"up", "relay"}: 10, {"down", "relay"}: 5, {"up", "spliced"}: 20, {"down", "spliced"}: 0,
	}
	if diff := cmp.Diff(want, m.bytes); diff != "" {
		t.Error(diff)
	}
}
