// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
)

// mixed is a port with listeners of every kind that TLS has, each with a
// backend that says its name.
func mixed(t *testing.T, port uint16) *config.Snapshot {
	t.Helper()
	snap := &config.Snapshot{}
	route := func(name string, handle func(half)) string {
		snap.Backends = append(snap.Backends, config.Backend{Name: name, Endpoints: []config.Endpoint{backend(t, handle)}})
		snap.Routes = append(snap.Routes, config.Route{Name: name, Backends: []config.BackendRef{{Backend: name, Weight: 1}}})
		return name
	}
	add := func(name, hostname string, tls *config.ListenerTLS, l4 ...config.HostRoute) *config.Listener {
		snap.Listeners = append(snap.Listeners, config.Listener{Name: name, Addresses: loopback, Port: port,
			Protocol: config.TLS, Hostname: hostname, TLS: tls, L4: l4})
		return &snap.Listeners[len(snap.Listeners)-1]
	}
	terminate := func(dns ...string) *config.ListenerTLS {
		c := certificateFor(t, "cert-"+dns[0], dns...)
		snap.Certificates = append(snap.Certificates, c)
		return &config.ListenerTLS{Certificates: []string{c.Name}}
	}
	add("exact", "db.example.com", terminate("db.example.com"), config.HostRoute{Route: route("exact", says("exact"))})
	add("wild", "*.example.com", terminate("*.example.com"),
		config.HostRoute{Hostname: "a.example.com", Route: route("wild-a", says("wild-a"))},
		config.HostRoute{Hostname: "*.b.example.com", Route: route("wild-b", says("wild-b"))})
	add("deep", "*.deep.example.com", terminate("*.deep.example.com"), config.HostRoute{Route: route("deep", says("deep"))})
	passed := &tls.Config{Certificates: []tls.Certificate{pair(t, certificateFor(t, "own", "pass.example.com", "x.pass.example.org"))}}
	own := func(c half) {
		conn := tls.Server(c, passed)
		if conn.Handshake() == nil {
			says("passed " + conn.ConnectionState().ServerName)(conn)
		}
	}
	add("pass", "pass.example.com", &config.ListenerTLS{Passthrough: true}, config.HostRoute{Route: route("pass", own)})
	add("pass-wild", "*.pass.example.org", &config.ListenerTLS{Passthrough: true}, config.HostRoute{Route: "pass"})
	h := add("https", "web.example.org", terminate("web.example.org", "*.web.example.org"))
	h.Protocol = config.HTTPS
	h.HTTP = []config.HTTPHost{{Hostname: "web.example.org", Rules: []config.HTTPRule{{Route: "HTTPRoute/web"}}}}
	h = add("https-l4", "*.web.example.org", h.TLS, config.HostRoute{Route: route("https-l4", says("https-l4"))})
	h.Protocol = config.HTTPS
	h.HTTP = []config.HTTPHost{{Hostname: "www.web.example.org", Rules: []config.HTTPRule{{Route: "HTTPRoute/web"}}}}
	return snap
}

func TestSNIDecidesWhereAConnectionGoes(t *testing.T) {
	port := freePort(t)
	g := run(t, &Server{}, mixed(t, port))
	const refused = "reset"
	for _, tt := range []struct{ name, sni, want string }{
		{"exact", "db.example.com", "exact"},
		{"upper case", "DB.Example.COM", "exact"},
		{"wildcard, a route by exact name", "a.example.com", "wild-a"},
		{"wildcard, a route by wildcard", "x.b.example.com", "wild-b"},
		{"several labels under a wildcard", "x.y.b.example.com", "wild-b"},
		{"wildcard, no route", "z.example.com", refused},
		{"longest wildcard", "x.deep.example.com", "deep"},
		{"longest wildcard takes no bare suffix", "deep.example.com", refused},
		{"a wildcard in the client's name", "*.b.example.com", "wild-b"},
		{"suffix without a label", "example.com", refused},
		{"suffix with an empty label", ".b.example.com", refused},
		{"another domain", "example.net", refused},
		{"none", "", refused},
		{"IDN in ASCII", "xn--bcher-kva.b.example.com", "wild-b"},
		{"raw UTF-8", "bücher.b.example.com", "wild-b"},
		{"longer than a domain name can be", strings.Repeat("a.", 130) + "b.example.com", refused},
		{"passthrough", "pass.example.com", "passed pass.example.com"},
		{"passthrough in upper case", "PASS.example.com", "passed PASS.example.com"},
		{"passthrough by wildcard", "x.pass.example.org", "passed x.pass.example.org"},
		{"HTTPS without L4 routes", "web.example.org", "HTTP/1.1 500 Internal Server Error"},
		{"HTTPS claimed by an HTTP host", "www.web.example.org", "HTTP/1.1 500 Internal Server Error"},
		{"HTTPS left to an L4 route", "tcp.web.example.org", "https-l4"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := greeting(t, port, tt.sni); got != tt.want {
				t.Errorf("SNI %q went to %q, want %q", tt.sni, got, tt.want)
			}
		})
	}
	eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
}

func TestAnEmptyHostnameTakesWhatNothingElseDoes(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "any", "any.example"), backend(t, says("any")))
	run(t, &Server{}, snap)
	for _, sni := range []string{"", "a.b", "any.example", strings.Repeat("x", 300)} {
		if got := greeting(t, port, sni); got != "any" {
			t.Errorf("SNI %q went to %q, want any", sni, got)
		}
	}
}

// greeting returns the first line that a server says to a client with this
// SNI name, the alert, or "reset".
func greeting(t *testing.T, port uint16, sni string) string {
	t.Helper()
	raw, err := net.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, ServerName: sni})
	if err := conn.Handshake(); err != nil {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "remote error" {
			return strings.TrimPrefix(op.Err.Error(), "tls: ")
		}
		if errors.Is(err, syscall.ECONNRESET) {
			return "reset"
		}
		return err.Error()
	}
	// A backend behind HTTP gets its request; others echo it after their name.
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", sni)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

// TestNamesFindWhatTheModelFinds compares the index with the plain reading of
// the specification: of all host names that match, the most specific one.
func TestNamesFindWhatTheModelFinds(t *testing.T) {
	labels := []string{"a", "b", "c", "example", "com"}
	r := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		var parts []string
		for range 1 + r.IntN(5) {
			parts = append(parts, labels[r.IntN(len(labels))])
		}
		return strings.Join(parts, ".")
	}
	for range 200 {
		var hostnames []string
		var n names[string]
		for range r.IntN(40) {
			h := name()
			switch r.IntN(10) {
			case 0:
				h = ""
			case 1, 2, 3, 4:
				h = "*." + h
			}
			hostnames = append(hostnames, h)
			n.add(h, h)
		}
		slices.SortFunc(hostnames, config.CompareHostnames)
		for range 200 {
			q := name()
			want, wantOK := "", false
			for _, h := range hostnames {
				if config.MatchHostname(h, q) {
					want, wantOK = h, true
					break
				}
			}
			got, ok := n.find(q)
			if diff := cmp.Diff([]any{want, wantOK}, []any{got, ok}); diff != "" {
				t.Fatalf("find %q among %q:\n%s", q, hostnames, diff)
			}
		}
	}
}

// TestFiveThousandNamesGetTheirOwnCertificate asks for random names of a port
// with 5,000 listeners.
func TestFiveThousandNamesGetTheirOwnCertificate(t *testing.T) {
	const count, asked = 5000, 300
	port := freePort(t)
	to := backend(t, echo)
	key := certKey(t)
	snap := &config.Snapshot{
		Routes:   []config.Route{{Name: "r", Backends: []config.BackendRef{{Backend: "b", Weight: 1}}}},
		Backends: []config.Backend{{Name: "b", Endpoints: []config.Endpoint{to}}},
	}
	for i := range count {
		host := fmt.Sprintf("n%d.example.com", i)
		if i%10 == 0 {
			host = fmt.Sprintf("*.w%d.example.com", i)
		}
		snap.Certificates = append(snap.Certificates, certificateWith(t, host, key, host))
		snap.Listeners = append(snap.Listeners, config.Listener{Name: host, Addresses: loopback, Port: port, Protocol: config.TLS,
			Hostname: host, TLS: &config.ListenerTLS{Certificates: []string{host}}, L4: []config.HostRoute{{Route: "r"}}})
	}
	run(t, &Server{}, snap)
	for range asked {
		i := rand.IntN(count)
		sni, want := fmt.Sprintf("n%d.example.com", i), fmt.Sprintf("n%d.example.com", i)
		if i%10 == 0 {
			sni, want = fmt.Sprintf("x.w%d.example.com", i), fmt.Sprintf("*.w%d.example.com", i)
		}
		conn := dialTLS(t, port, client(sni))
		if got := conn.ConnectionState().PeerCertificates[0].DNSNames[0]; got != want {
			t.Fatalf("SNI %s got the certificate of %s", sni, got)
		}
		conn.Close()
	}
}

func BenchmarkFindName(b *testing.B) {
	var n names[int]
	for i := range 5000 {
		n.add(fmt.Sprintf("n%d.example.com", i), i)
		n.add(fmt.Sprintf("*.w%d.example.com", i), i)
	}
	for b.Loop() {
		n.find("x.y.z.w4711.example.com")
	}
}
