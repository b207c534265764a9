// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
)

// world makes snapshots at random, with backends that say their names.
type world struct {
	t            *testing.T
	r            *rand.Rand
	tls, tcp, ht uint16
	certificates []config.Certificate
	backends     map[string][]config.Backend // by what they speak: "plain", "tls", "http"
}

var worldNames = []string{"a.test", "b.a.test", "c.b.a.test", "d.test", "example"}

func newWorld(t *testing.T, r *rand.Rand) *world {
	w := &world{t: t, r: r, tls: freePort(t), tcp: freePort(t), ht: freePort(t), backends: map[string][]config.Backend{}}
	for i, dns := range [][]string{{"a.test"}, {"*.a.test", "a.test"}, {"*.test"}, {"c.b.a.test", "d.test"}, {"example"}} {
		w.certificates = append(w.certificates, certificateFor(t, fmt.Sprintf("ns/ecdsa%d", i), dns...),
			certificateWith(t, fmt.Sprintf("ns/rsa%d", i), rsaKey(), dns...))
	}
	own := &tls.Config{Certificates: []tls.Certificate{pair(t, certificateFor(t, "own", "own.test"))}}
	for i := range 3 {
		plain, passed, web := fmt.Sprintf("ns/plain:%d", i), fmt.Sprintf("ns/tls:%d", i), fmt.Sprintf("ns/http:%d", i)
		w.add("plain", plain, backend(t, says(plain)), backend(t, says(plain)))
		w.add("tls", passed, backend(t, func(c half) {
			if conn := tls.Server(c, own); conn.Handshake() == nil {
				says(passed)(conn)
			}
		}))
		s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprintln(rw, web) }))
		t.Cleanup(s.Close)
		w.add("http", web, endpoint(s.Listener.Addr()))
	}
	for kind := range w.backends {
		w.add(kind, "ns/none-"+kind+":1")
	}
	return w
}

func (w *world) add(kind, name string, e ...config.Endpoint) {
	w.backends[kind] = append(w.backends[kind], config.Backend{Name: name, Endpoints: e})
}

func (w *world) chance(percent int) bool { return w.r.IntN(100) < percent }

// hostnames are different ones, "" among them at times.
func (w *world) hostnames() []string {
	var out []string
	for _, n := range worldNames {
		for _, h := range []string{n, "*." + n} {
			if w.chance(30) {
				out = append(out, h)
			}
		}
	}
	if w.chance(30) || len(out) == 0 {
		out = append(out, "")
	}
	w.r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// refs are shares of backends of a kind; some lead nowhere.
func (w *world) refs(kind string) []config.BackendRef {
	var out []config.BackendRef
	for range 1 + w.r.IntN(3) {
		ref := config.BackendRef{Weight: w.r.IntN(4)}
		if b := w.backends[kind]; !w.chance(10) {
			ref.Backend = b[w.r.IntN(len(b))].Name
		}
		out = append(out, ref)
	}
	return out
}

func (w *world) routes(snap *config.Snapshot, kind string, hostnames []string) []config.HostRoute {
	var out []config.HostRoute
	for _, h := range hostnames {
		name := fmt.Sprintf("TLSRoute/ns/r%d", len(snap.Routes))
		snap.Routes = append(snap.Routes, config.Route{Name: name, Backends: w.refs(kind)})
		out = append(out, config.HostRoute{Hostname: h, Route: name})
	}
	return out
}

func (w *world) hosts(hostnames []string) []config.HTTPHost {
	var out []config.HTTPHost
	for i, h := range hostnames {
		rule := config.HTTPRule{Route: fmt.Sprintf("HTTPRoute/ns/h%d", i), Match: config.HTTPMatch{Path: []string{"/", "/x"}[w.r.IntN(2)]}}
		for _, b := range w.refs("http") {
			rule.Backends = append(rule.Backends, config.HTTPBackendRef{BackendRef: b})
		}
		rule.Invalid = w.chance(10)
		out = append(out, config.HTTPHost{Hostname: h, Rules: []config.HTTPRule{rule}})
	}
	return out
}

func (w *world) snapshot() *config.Snapshot {
	snap := &config.Snapshot{Certificates: w.certificates}
	for _, all := range w.backends {
		snap.Backends = append(snap.Backends, all...)
	}
	listen := func(port uint16, p config.Protocol, hostname string) *config.Listener {
		snap.Listeners = append(snap.Listeners, config.Listener{Name: fmt.Sprintf("ns/g/l%d", len(snap.Listeners)), Addresses: loopback, Port: port, Protocol: p, Hostname: hostname})
		return &snap.Listeners[len(snap.Listeners)-1]
	}
	for _, h := range w.hostnames() {
		l := listen(w.tls, config.TLS, h)
		l.TLS = &config.ListenerTLS{}
		if w.chance(10) {
			l.NotServed = "the listener is not accepted"
			continue
		}
		if l.TLS.Passthrough = w.chance(20); l.TLS.Passthrough {
			l.L4 = w.routes(snap, "tls", w.hostnames())
			continue
		}
		for _, i := range w.r.Perm(len(w.certificates))[:1+w.r.IntN(4)] {
			l.TLS.Certificates = append(l.TLS.Certificates, w.certificates[i].Name)
		}
		if w.chance(30) {
			l.TLS.MinVersion = tls.VersionTLS13
		}
		switch w.r.IntN(3) {
		case 0:
			l.Protocol, l.HTTP = config.HTTPS, w.hosts(w.hostnames())
			if w.chance(50) {
				l.L4 = w.routes(snap, "plain", []string{""})
			}
		case 1:
			l.TLS.ALPN = []string{"pg", "mq"}
			fallthrough
		default:
			l.L4 = w.routes(snap, "plain", w.hostnames())
		}
	}
	listen(w.tcp, config.TCP, "").L4 = w.routes(snap, "plain", []string{""}[:w.r.IntN(2)])
	for _, h := range w.hostnames() {
		listen(w.ht, config.HTTP, h).HTTP = w.hosts(w.hostnames())
	}
	return snap
}

// question is a connection to any of the ports, for a name that is served or
// nearly so.
func (w *world) question() Question {
	q := Question{Local: loopback[0], Port: []uint16{w.tls, w.tls, w.tls, w.tcp, w.ht}[w.r.IntN(5)]}
	n := worldNames[w.r.IntN(len(worldNames))]
	q.SNI = []string{n, "x." + n, strings.ToUpper(n), "x.y." + n, n + ".", "other", ""}[w.r.IntN(7)]
	q.ALPN = [][]string{nil, nil, {"mq", "pg"}, {"http/1.1"}, {"h9"}}[w.r.IntN(5)]
	if q.Port == w.ht && q.SNI == "" {
		q.SNI = "other"
	}
	return q
}

// observed is what a connection got, by the access log and by the client.
type observed struct {
	Listener, Route, Backend, Endpoint, Result string
	ALPN                                       string
	TLSVersion                                 string `json:"tls_version"`
	CipherSuite                                string `json:"cipher_suite"`
	certificate                                string
	status                                     int // of a request
}

// try makes the connection.
func (w *world) try(g *gateway, snap *config.Snapshot, q Question, isHTTP bool) observed {
	before := len(g.access.String()) // one connection at a time
	raw, err := net.Dial("tcp", address(q.Port))
	if errors.Is(err, syscall.ECONNRESET) {
		raw, _ = net.Pipe() // refused so soon that connect was told
		isHTTP = false
	} else if err != nil {
		w.t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	conn, out := raw, observed{}
	switch {
	case err != nil:
	case q.Port == w.tls:
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: q.SNI, NextProtos: q.ALPN})
		if c.Handshake() == nil {
			leaf := c.ConnectionState().PeerCertificates[0]
			for _, known := range snap.Certificates {
				if block, _ := pem.Decode(known.Chain); bytes.Equal(block.Bytes, leaf.Raw) {
					out.certificate = known.Name
				}
			}
			conn = c
		} else {
			isHTTP = false
		}
	}
	switch {
	case err != nil:
	case isHTTP:
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", q.SNI)
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			out.status = resp.StatusCode
			resp.Body.Close()
		}
	default:
		_, _ = bufio.NewReader(conn).ReadString('\n')
	}
	conn.Close()
	raw.Close()
	found := false
	eventually(w.t, "the connection is logged", func() bool {
		for line := range strings.Lines(g.access.String()[before:]) {
			var entry struct {
				observed
				Msg string
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil {
				w.t.Fatalf("%v in %s", err, line)
			}
			// Of HTTP the request has route, backend and endpoint.
			if entry.Msg == "request" {
				out.Listener, out.Route, out.Backend, out.Endpoint = entry.Listener, entry.Route, entry.Backend, entry.Endpoint
				continue
			}
			found = true
			if isHTTP {
				out.ALPN, out.TLSVersion, out.CipherSuite = entry.ALPN, entry.TLSVersion, entry.CipherSuite
				continue
			}
			entry.certificate, entry.status = out.certificate, out.status
			out = entry.observed
		}
		return found
	})
	return out
}

// agree compares what was explained with what came of it. The choice among
// backends and endpoints is random: it must be one of those.
func agree(x *Explanation, got observed) string {
	refusing := slices.ContainsFunc(x.Backends, func(s Share) bool { return len(s.Endpoints) == 0 })
	if x.Refused != "" && refusing && got.Result == string(endNoEndpoint) {
		return ""
	}
	if x.Refused != "" {
		return cmp.Diff([]string{x.Refused, x.Listener}, []string{got.Result, got.Listener})
	}
	want := got
	want.Listener, want.Route, want.certificate = x.Listener, x.Route, x.Certificate
	want.ALPN, want.TLSVersion, want.CipherSuite = x.ALPN, x.TLSVersion, x.CipherSuite
	i := slices.IndexFunc(x.Backends, func(s Share) bool { return s.Backend == got.Backend })
	switch {
	case x.Status != 0:
		want.status, want.Backend, want.Endpoint = x.Status, "", ""
	case got.Endpoint == "" && refusing && (got.Result == string(endNoEndpoint) || got.status == 500 || got.status == 503):
		if !x.HTTP { // refused before the handshake
			want.ALPN, want.TLSVersion, want.CipherSuite, want.certificate = got.ALPN, got.TLSVersion, got.CipherSuite, got.certificate
		}
	case i < 0 || !slices.ContainsFunc(x.Backends[i].Endpoints, func(e EndpointState) bool { return e.Address == got.Endpoint }):
		return fmt.Sprintf("backend %q, endpoint %q are not among %+v", got.Backend, got.Endpoint, x.Backends)
	}
	return cmp.Diff(want, got, cmp.AllowUnexported(observed{}))
}

func TestConnectionsGetWhatIsExplained(t *testing.T) {
	const snapshots, connections = 30, 30
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t, rand.New(rand.NewPCG(seed, 0)))
	var g *gateway
	kinds := map[string]int{}
	wanted := []string{"l4", "http", "passthrough", string(endNoListener), string(endNoRoute)}
	missing := func() bool { return slices.ContainsFunc(wanted, func(k string) bool { return kinds[k] == 0 }) }
	for n := 0; n < snapshots || n < 20*snapshots && missing(); n++ {
		snap := w.snapshot()
		snap.Sort()
		if err := snap.Validate(); err != nil {
			t.Fatal(err)
		}
		if g == nil {
			g = run(t, &Server{}, snap)
		} else {
			g.apply(snap)
		}
		for range connections {
			q := w.question()
			x, err := g.s.Explain(q)
			if err != nil {
				t.Fatal(err)
			}
			offline, err := Explain(snap, q)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(offline.Route, x.Route); diff != "" || offline.Refused != x.Refused || offline.Certificate != x.Certificate {
				t.Errorf("%+v: offline %+v, live %+v", q, offline, x)
			}
			got := w.try(g, snap, q, x.HTTP)
			if diff := agree(x, got); diff != "" {
				t.Fatalf("%+v: explained (-), got (+): %s\n%s\nlog: %+v", q, diff, strings.Join(x.Steps, "\n"), got)
			}
			switch {
			case x.Refused != "":
				kinds[x.Refused]++
			case x.Passthrough:
				kinds["passthrough"]++
			case x.HTTP:
				kinds["http"]++
			default:
				kinds["l4"]++
			}
		}
	}
	t.Logf("connections by what became of them: %v", kinds)
	if missing() {
		t.Errorf("not all of %q are among %v: the cases are too few", wanted, kinds)
	}
}

func TestExplainSaysWhy(t *testing.T) {
	port := freePort(t)
	snap := mixed(t, port)
	snap.Sort()
	for _, tt := range []struct {
		q    Question
		want string
	}{
		{Question{Port: port, SNI: "x.y.b.example.com"}, `server name "x.y.b.example.com": listener wild takes it, by hostname "*.example.com", the most specific
certificate of Secret cert-*.example.com, for *.example.com, among 1 of the listener
a client of today and the listener agree on TLS 1.3, TLS_AES_128_GCM_SHA256, no ALPN
route wild-b
100% goes to backend wild-b, at its only endpoint `},
		{Question{Port: port, SNI: "example.net"}, `server name "example.net": no listener of the port has it (there are db.example.com, pass.example.com, web.example.org, *.deep.example.com, *.pass.example.org, and 2 more); the connection is reset`},
		{Question{Port: port + 1}, fmt.Sprintf("nothing listens for TCP on port %d", port+1)},
	} {
		x, err := Explain(snap, tt.q)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(x.Steps, "\n"); !strings.Contains(text, tt.want) {
			t.Errorf("%+v: %s\nwant %s", tt.q, text, tt.want)
		}
	}
	other := snap.Listeners[0]
	other.Name, other.Addresses = "other", []netip.Addr{netip.MustParseAddr("127.0.0.2")}
	snap.Listeners = append(snap.Listeners, other)
	snap.Sort()
	if x, err := Explain(snap, Question{Port: port}); err == nil || !strings.Contains(err.Error(), "127.0.0.1") || !strings.Contains(err.Error(), "127.0.0.2") {
		t.Errorf("a port on two addresses: %+v, %v; want to be asked which", x, err)
	}
}

func TestExplainTellsNoKey(t *testing.T) {
	port := freePort(t)
	snap := mixed(t, port)
	snap.Sort()
	x, err := Explain(snap, Question{Port: port, SNI: "db.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("PRIVATE")) {
		t.Error("the explanation holds a key")
	}
}
