// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-gateway/sluice/agent/address"
	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/splice"
	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/terminator"
)

// running is an agent without splice, with both of its sockets.
func running(t *testing.T, log io.Writer) (a *Agent, stop func()) {
	t.Helper()
	l := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	addresses := address.New(l) // which holds none
	t.Cleanup(addresses.Close)
	a, err := New(Options{Version: "test", Admin: filepath.Join(t.TempDir(), "admin.sock"), Metrics: "127.0.0.1:0", Log: l,
		Collectors: []prometheus.Collector{addresses, NewLostLines()},
		Resources:  func() (any, int) { return "resources", 3 }, Server: &terminator.Server{Log: l, DrainTimeout: time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return a, stop
}

func fetch(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// web is a client that leaves no connection behind.
func web(t *testing.T) *http.Client {
	t.Helper()
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
}

func tcpListener(t *testing.T) config.Listener {
	t.Helper()
	port, release, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return config.Listener{Name: "test/gateway/tcp", Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Port: port, Protocol: config.TCP}
}

func TestReadyMeansThatASnapshotIsServed(t *testing.T) {
	a, stop := running(t, io.Discard)
	base := "http://" + a.metrics.Addr().String()
	for _, c := range []struct {
		path, body string
		code       int
	}{{"/healthz", "alive\n", 200}, {"/readyz", "no snapshot yet\n", 503}} {
		if code, body := fetch(t, web(t), base+c.path); code != c.code || body != c.body {
			t.Errorf("%s before a snapshot: %d %q", c.path, code, body)
		}
	}
	a.Apply(&config.Snapshot{})
	if code, body := fetch(t, web(t), base+"/readyz"); code != 200 || body != "ready\n" {
		t.Errorf("/readyz after a snapshot: %d %q", code, body)
	}

	// An open connection keeps the agent draining, and the port answering.
	s := &config.Snapshot{Listeners: []config.Listener{tcpListener(t)}}
	s.Listeners[0].L4 = []config.HostRoute{{Route: "r"}}
	s.Routes = []config.Route{{Name: "r", Backends: []config.BackendRef{{Backend: "b", Weight: 1}}}}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s.Backends = []config.Backend{{Name: "b", Endpoints: []config.Endpoint{{Host: "127.0.0.1", Port: uint16(silent.Addr().(*net.TCPAddr).Port)}}}}
	a.Apply(s)
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Listeners[0].Port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := silent.Accept(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); stop() }()
	for !a.ending.Load() {
		time.Sleep(time.Millisecond)
	}
	if code, body := fetch(t, web(t), base+"/readyz"); code != 503 || body != "draining\n" {
		t.Errorf("/readyz while draining: %d %q", code, body)
	}
	<-done
}

func TestASnapshotThatDoesNotValidateChangesNothing(t *testing.T) {
	a, _ := running(t, io.Discard)
	good := &config.Snapshot{Listeners: []config.Listener{tcpListener(t)}}
	if diff := cmp.Diff(config.Report{Hash: good.Hash(), Listeners: map[string]string{"test/gateway/tcp": ""}}, a.Apply(good)); diff != "" {
		t.Error(diff)
	}
	bad := &config.Snapshot{Listeners: []config.Listener{tcpListener(t)}}
	bad.Listeners[0].L4 = []config.HostRoute{{Route: "nowhere"}}
	report := a.Apply(bad)
	if problem := report.Listeners["test/gateway/tcp"]; report.Hash != bad.Hash() || !strings.Contains(problem, "nowhere") {
		t.Errorf("report %+v", report)
	}
	if diff := cmp.Diff(config.Report{Hash: good.Hash(), Listeners: map[string]string{"test/gateway/tcp": ""}}, a.Report()); diff != "" {
		t.Errorf("what is served changed: %s", diff)
	}
	_, metrics := fetch(t, web(t), "http://"+a.metrics.Addr().String()+"/metrics")
	hash, err := strconv.ParseUint(good.Hash()[:12], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`sluice_snapshots_total{result="applied"} 1`, `sluice_snapshots_total{result="invalid"} 1`,
		fmt.Sprintf("sluice_snapshot_hash %s", strconv.FormatFloat(float64(hash), 'g', -1, 64))} {
		if !strings.Contains(metrics, "\n"+want+"\n") {
			t.Errorf("no %s in %s", want, metrics)
		}
	}
}

func TestTheReportSpeaksOfTheSnapshotAndNotOfItsAddresses(t *testing.T) {
	a, _ := running(t, io.Discard)
	a.resolver.lookup = names{"db.example.com": {"192.0.2.7"}}.lookup
	s := backendOf("db.example.com")
	if got := a.Apply(s).Hash; got != s.Hash() {
		t.Errorf("hash %s, want %s", got, s.Hash())
	}
	if got := a.Report().Hash; got != s.Hash() {
		t.Errorf("hash %s later, want %s", got, s.Hash())
	}
}

func TestTheSpliceLearnsWhatMayBeSpliced(t *testing.T) {
	at := func(a string) netip.AddrPort { return netip.MustParseAddrPort(a) }
	s := &config.Snapshot{
		Routes: []config.Route{
			{Name: "TLSRoute/a/one", Backends: []config.BackendRef{{Backend: "auto"}, {Backend: ""}, {Backend: "off"}}},
			{Name: "TLSRoute/a/two", Backends: []config.BackendRef{{Backend: "auto"}, {Backend: "shared"}}},
		},
		Backends: []config.Backend{
			{Name: "auto", Endpoints: []config.Endpoint{{Host: "192.0.2.1", Port: 1}, {Host: "::ffff:192.0.2.2", Port: 1}, {Host: "2001:db8::1", Port: 1}}},
			{Name: "off", Splice: config.SpliceOff, Endpoints: []config.Endpoint{{Host: "192.0.2.3", Port: 1}}},
			{Name: "shared", Endpoints: []config.Endpoint{{Host: "192.0.2.3", Port: 1}, {Host: "192.0.2.3", Port: 2}}},
			{Name: "of no route", Endpoints: []config.Endpoint{{Host: "192.0.2.4", Port: 1}}},
		},
	}
	want := []splice.Endpoint{
		{Address: at("192.0.2.1:1"), Route: "TLSRoute/a/one"},
		{Address: at("192.0.2.2:1"), Route: "TLSRoute/a/one"},
		{Address: at("[2001:db8::1]:1"), Route: "TLSRoute/a/one"},
		{Address: at("192.0.2.3:1"), Route: "TLSRoute/a/one", Policy: splice.Off},
		{Address: at("192.0.2.3:2"), Route: "TLSRoute/a/two"},
	}
	if diff := cmp.Diff(want, endpoints(s), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

// The names of metrics are an interface: the table in README.md is all there
// is, and all of it is there.
func TestTheMetricsAreThoseOfTheReadme(t *testing.T) {
	a, _ := running(t, io.Discard)
	if _, err := a.registry.Gather(); err != nil {
		t.Errorf("the pedantic registry complains: %v", err)
	}
	descs := make(chan *prometheus.Desc)
	go func() { defer close(descs); a.registry.Describe(descs) }()
	pattern := regexp.MustCompile(`^Desc\{fqName: "(\w+)", help: "(.*)", unit: ".*", constLabels: \{.*\}, variableLabels: \{(.*)\}\}$`)
	var got []string
	for d := range descs {
		m := pattern.FindStringSubmatch(d.String())
		if m == nil {
			t.Errorf("cannot read %s", d)
		} else if strings.HasPrefix(m[1], "sluice_") {
			got = append(got, fmt.Sprintf("| `%s` | %s | %s |", m[1], strings.ReplaceAll(m[3], ",", ", "), m[2]))
		}
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, "| `sluice_") && !strings.HasPrefix(line, "| `sluice_controller_") {
			want = append(want, strings.TrimSpace(line))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("README.md (-), metrics (+):\n%s", diff)
	}
}

// Whatever the agent shows of itself, a private key is not in it.
func TestNobodySeesAPrivateKey(t *testing.T) {
	var log bytes.Buffer
	a, stop := running(t, &log)
	key := []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0c2VjcmV0c2VjcmV0\n-----END PRIVATE KEY-----\n")
	l := tcpListener(t)
	l.Protocol, l.TLS = config.TLS, &config.ListenerTLS{Certificates: []string{"test/cert"}}
	s := &config.Snapshot{Listeners: []config.Listener{l},
		Certificates: []config.Certificate{{Name: "test/cert", Chain: []byte("not a certificate"), Key: key}}}
	report := a.Apply(s)
	a.Apply(&config.Snapshot{Listeners: []config.Listener{{Name: "bad"}}, Certificates: s.Certificates})

	shown := map[string]string{"report": fmt.Sprintf("%+v %#v", report, report)}
	for _, path := range []string{"/status", "/connections"} {
		_, shown[path] = fetch(t, AdminClient(a.opts.Admin), "http://agent"+path)
	}
	_, shown["/metrics"] = fetch(t, web(t), "http://"+a.metrics.Addr().String()+"/metrics")
	dump := make([]byte, 1<<20)
	shown["goroutines"] = string(dump[:runtime.Stack(dump, true)])
	shown["snapshot"] = fmt.Sprintf("%v %+v %#v %x", s, s, s.Certificates, s.Certificates[0].Key)
	stop()
	shown["log"] = log.String()
	if !strings.Contains(shown["/status"], `"test/cert"`) {
		t.Errorf("status does not tell of the certificate: %s", shown["/status"])
	}
	for what, text := range shown {
		for _, secret := range []string{"PRIVATE KEY", "c2VjcmV0", fmt.Sprintf("%x", "c2VjcmV0"), fmt.Sprintf("%d", []byte("c2VjcmV0"))} {
			if strings.Contains(text, strings.Trim(secret, "[]")) {
				t.Errorf("%s shows %q", what, secret)
			}
		}
	}
}
