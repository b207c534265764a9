// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sluice-gateway/sluice/agent/config"
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
		"sni": "a.example", "alpn": "", "tls_version": "TLS 1.3", "cipher_suite": "TLS_AES_128_GCM_SHA256", "client_certificate": "",
		"route": "r", "backend": "b", "endpoint": fmt.Sprintf("%s:%d", to.Host, to.Port),
		"up": 5., "down": 5., "path": "relay", "reason": "", "result": "done"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// records returns the lines of the access log with this message, without what
// differs each time.
func (g *gateway) records(t *testing.T, msg string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(g.access.String()) {
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatal(err)
		}
		if got["msg"] != msg {
			continue
		}
		for _, key := range []string{"time", "start", "client", "duration", "level", "msg"} {
			if got[key] == nil || got[key] == "" || got[key] == 0. {
				t.Errorf("%s: %v", key, got[key])
			}
			delete(got, key)
		}
		out = append(out, got)
	}
	return out
}

// TestAccessLogHasALineForEachHTTPRequest: one connection may carry requests
// for several routes.
func TestAccessLogHasALineForEachHTTPRequest(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	g, snap := webGateway(t, &Server{}, plain, secure)
	c := browser(t, plain, secure, false)
	get(t, c, "http://a.example/x?token=secret")
	get(t, c, "http://a.example/y")
	c.Transport.(*http.Transport).DisableKeepAlives = true // of the last one
	get(t, c, "http://other.test/")
	c.CloseIdleConnections()
	eventually(t, "two connections", func() bool { return len(g.records(t, "connection")) == 2 })

	endpoints := map[string]string{}
	for _, b := range snap.Backends {
		endpoints[b.Name] = net.JoinHostPort(b.Endpoints[0].Host, itoa(b.Endpoints[0].Port))
	}
	request := func(id float64, listener, host, path string, status float64, to string, down float64) map[string]any {
		out := map[string]any{"id": id, "listener": listener, "protocol": "HTTP/1.1", "method": "GET", "host": host, "path": path,
			"status": status, "route": "", "backend": to, "endpoint": endpoints[to], "up": 0., "down": down, "result": "done"}
		if to != "" {
			out["route"] = "HTTPRoute/" + to
		}
		return out
	}
	got := g.records(t, "request")
	for _, r := range got {
		if id, _ := r["request_id"].(string); (len(id) == 36) != (r["backend"] != "") {
			t.Errorf("request_id %q of %v", id, r)
		}
		delete(r, "request_id")
	}
	want := []map[string]any{
		request(1, "http-a", "a.example", "/x", 200, "wa", 5),
		request(1, "http-a", "a.example", "/y", 200, "wa", 5),
		request(2, "", "other.test", "/", 404, "", 17),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	for _, r := range g.records(t, "connection") {
		if r["requests"] != 3-r["id"].(float64) || r["route"] != "" || r["endpoint"] != "" || r["reason"] != "http" {
			t.Errorf("connection: %v", r)
		}
	}
	if strings.Contains(g.access.String(), "secret") {
		t.Error("the query is in the log")
	}
	// The one without a route had no first byte.
	var m dto.Metric
	if err := g.s.Metrics.firstByte.WithLabelValues("http").(prometheus.Histogram).Write(&m); err != nil || m.GetHistogram().GetSampleCount() != 2 {
		t.Errorf("%d first bytes, %v, want 2", m.GetHistogram().GetSampleCount(), err)
	}
}

// TestTheReadmeShowsTheFieldsOfTheAccessLog compares names, not values.
func TestTheReadmeShowsTheFieldsOfTheAccessLog(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	g, _ := webGateway(t, &Server{}, plain, secure)
	greeting(t, secure, "c.example")
	get(t, browser(t, plain, secure, false), "http://a.example/")
	eventually(t, "two lines", func() bool { return strings.Count(g.access.String(), "\n") == 2 })
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string][]string{}
	for _, object := range regexp.MustCompile(`(?s)\n\{"time":.*?\}\n`).FindAllString(string(readme), -1) {
		keys, msg := fields(t, object)
		shown[msg] = keys
	}
	for line := range strings.Lines(g.access.String()) {
		keys, msg := fields(t, line)
		if diff := cmp.Diff(keys, shown[msg]); diff != "" {
			t.Errorf("msg %s (-log +README):\n%s", msg, diff)
		}
	}
}

func fields(t *testing.T, object string) (keys []string, msg string) {
	t.Helper()
	var values map[string]any
	if err := json.Unmarshal([]byte(object), &values); err != nil {
		t.Fatalf("%v: %s", err, object)
	}
	delete(values, "error") // where something broke
	msg, _ = values["msg"].(string)
	return slices.Sorted(maps.Keys(values)), msg
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
			values[f.GetName()+" "+strings.Join(at, " ")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
		slices.Sort(labels)
		got = append(got, f.GetName()+"{"+strings.Join(labels, ",")+"}")
	}
	if diff := cmp.Diff(documented(t), got); diff != "" {
		t.Errorf("documented (-), gathered (+):\n%s", diff)
	}
	// Which of two endpoints is tried first is chance.
	if refused := values["sluice_endpoint_choices_total b refused"]; refused != values["sluice_connect_failures_total refused"] || (refused > 0) != (values["sluice_backend_endpoints b failed"] == 1) {
		t.Errorf("%v choices were refused, of %v attempts to connect, and %v endpoints failed", refused, values["sluice_connect_failures_total refused"], values["sluice_backend_endpoints b failed"])
	}
	for name, want := range map[string]float64{
		"sluice_connections_total l done":    5,
		"sluice_connections_total  not_tls":  1,
		"sluice_connections_active l":        1,
		"sluice_handshakes_total ok TLS 1.3": 6,
		"sluice_handshakes_total failed ":    1,
		"sluice_bytes_total up relay":        30,
		"sluice_bytes_total down relay":      30,
		"sluice_connect_seconds ":            6,
		"sluice_first_byte_seconds http":     0,
		"sluice_first_byte_seconds tcp":      6, // that of the open one, too
		"sluice_endpoint_choices_total b ok": 6,
		"sluice_backend_endpoints b well":    2 - values["sluice_backend_endpoints b failed"],
	} {
		if values[name] != want {
			t.Errorf("%s is %v, want %v", name, values[name], want)
		}
	}
	snap.Listeners, snap.Routes, snap.Backends = nil, nil, nil
	g.apply(snap)
	open.NetConn().Close()
	eventually(t, "no connection", func() bool { return len(g.s.Connections()) == 0 })
	g.apply(snap)
	families, _ = registry.Gather()
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "listener" && l.GetValue() == "l" || l.GetName() == "backend" {
					t.Errorf("%s still has the %s that is gone", f.GetName(), l.GetName())
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

// A session that stays has had its first byte: it is observed once, while it is open,
// but where the kernel carries it and nobody sees the byte.
func TestTheFirstByteOfAnOpenConnectionIsObservedOnce(t *testing.T) {
	for _, tt := range []struct {
		protocol config.Protocol
		noLoop   bool
		want     uint64
	}{{config.TLS, false, 1}, {config.TLS, true, 1}, {config.TCP, false, 1}, {config.TCP, true, 0}} {
		t.Run(fmt.Sprintf("%s, loop %v", tt.protocol, !tt.noLoop), func(t *testing.T) {
			port := freePort(t)
			snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
			if tt.protocol == config.TCP {
				snap.Listeners[0].Protocol, snap.Listeners[0].TLS = config.TCP, nil
			}
			s := &Server{Metrics: NewMetrics(), NoEventLoop: tt.noLoop}
			run(t, s, snap)
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(s.Metrics)
			var c net.Conn
			if tt.protocol == config.TLS {
				c = dialTLS(t, port, client("a.example"))
			} else {
				var err error
				if c, err = net.Dial("tcp", address(port)); err != nil {
					t.Fatal(err)
				}
				defer c.Close()
			}
			observed := func() (n uint64) {
				families, err := registry.Gather()
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range families {
					if f.GetName() == "sluice_first_byte_seconds" {
						for _, m := range f.Metric {
							n += m.GetHistogram().GetSampleCount()
						}
					}
				}
				return n
			}
			if n := observed(); n != 0 {
				t.Errorf("%d before the first byte", n)
			}
			for range 3 {
				roundTrip(t, c)
				if n := observed(); n != tt.want {
					t.Errorf("%d while the connection is open, want %d", n, tt.want)
				}
			}
			c.Close()
			eventually(t, "the end", func() bool { return len(s.Connections()) == 0 })
			if n := observed(); n != tt.want {
				t.Errorf("%d when it has ended, want %d", n, tt.want)
			}
		})
	}
}
