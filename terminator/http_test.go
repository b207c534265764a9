// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// web is an HTTP backend that answers with its name and the request's path.
func web(t *testing.T, name string) config.Backend {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			time.Sleep(300 * time.Millisecond)
		}
		fmt.Fprintf(w, "%s %s", name, r.URL.Path)
	}))
	t.Cleanup(s.Close)
	return config.Backend{Name: name, Endpoints: []config.Endpoint{endpoint(s.Listener.Addr())}}
}

func host(hostname, backend string) config.HTTPHost {
	return config.HTTPHost{Hostname: hostname, Rules: []config.HTTPRule{{Route: "HTTPRoute/" + backend, Match: config.HTTPMatch{Path: "/"},
		Backends: []config.HTTPBackendRef{{BackendRef: config.BackendRef{Backend: backend, Weight: 1}}}}}}
}

// webGateway serves a.example and b.example on an HTTP and an HTTPS port; on
// the latter c.example is for a TCPRoute.
func webGateway(t *testing.T, s *Server, plain, secure uint16) (*gateway, *config.Snapshot) {
	t.Helper()
	cert := certificateFor(t, "c", "a.example", "b.example", "c.example")
	tcp := config.Backend{Name: "tcp", Endpoints: []config.Endpoint{backend(t, says("tcp"))}}
	listener := func(name, hostname string, port uint16, p config.Protocol, hosts ...config.HTTPHost) config.Listener {
		l := config.Listener{Name: name, Hostname: hostname, Addresses: loopback, Port: port, Protocol: p, HTTP: hosts}
		if p == config.HTTPS {
			l.TLS = &config.ListenerTLS{Certificates: []string{"c"}}
		}
		return l
	}
	c := listener("https-c", "c.example", secure, config.HTTPS)
	c.L4 = []config.HostRoute{{Route: "tcp"}}
	snap := &config.Snapshot{
		Listeners: []config.Listener{
			listener("http-a", "a.example", plain, config.HTTP, host("a.example", "wa")),
			listener("http-b", "*.example", plain, config.HTTP, host("b.example", "wb")),
			listener("https-a", "a.example", secure, config.HTTPS, host("a.example", "wa")),
			listener("https-b", "*.example", secure, config.HTTPS, host("b.example", "wb")),
			c,
		},
		Routes:       []config.Route{{Name: "tcp", Backends: []config.BackendRef{{Backend: "tcp", Weight: 1}}}},
		Backends:     []config.Backend{tcp, web(t, "wa"), web(t, "wb")},
		Certificates: []config.Certificate{cert},
	}
	return run(t, s, snap), snap
}

// browser is an HTTP client whose names all lead to the gateway.
func browser(t *testing.T, plain, secure uint16, h2 bool) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: testCA().pool},
		ForceAttemptHTTP2: h2,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			port := plain
			if strings.HasSuffix(addr, ":443") {
				port = secure
			}
			return (&net.Dialer{}).DialContext(ctx, network, address(port))
		},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) string {
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
	return fmt.Sprintf("%d HTTP/%d %s", resp.StatusCode, resp.ProtoMajor, strings.TrimSpace(string(body)))
}

func TestHTTPIsServedByHostAndHTTPSByName(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	s := &Server{Metrics: NewMetrics()}
	g, snap := webGateway(t, s, plain, secure)
	one, two := browser(t, plain, secure, false), browser(t, plain, secure, true)
	for _, tt := range []struct {
		c         *http.Client
		url, want string
	}{
		{one, "http://a.example/x", "200 HTTP/1 wa /x"},
		{one, "http://b.example/y", "200 HTTP/1 wb /y"},
		{one, "http://z.example/", "404 HTTP/1 no route matches"},
		{one, "http://elsewhere/", "404 HTTP/1 no route matches"},
		{one, "https://a.example/x", "200 HTTP/1 wa /x"},
		{one, "https://a.example/again", "200 HTTP/1 wa /again"}, // on the same connection
		{one, "https://a.example/slow", "200 HTTP/1 wa /slow"},
		{two, "https://a.example/x", "200 HTTP/2 wa /x"},
		{two, "https://b.example/y", "200 HTTP/2 wb /y"},
	} {
		if got := get(t, tt.c, tt.url); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.url, got, tt.want)
		}
	}
	if got := greeting(t, secure, "c.example"); got != "tcp" {
		t.Errorf("the name of the TCPRoute leads to %q", got)
	}

	// Requests on connections that are open see a new snapshot.
	swapped := *snap
	swapped.Listeners = append([]config.Listener{}, snap.Listeners...)
	for i, l := range swapped.Listeners {
		if l.Name == "https-a" || l.Name == "http-a" {
			swapped.Listeners[i].HTTP = []config.HTTPHost{host("a.example", "wb")}
		}
	}
	g.apply(&swapped)
	if got := get(t, two, "https://a.example/z"); got != "200 HTTP/2 wb /z" {
		t.Errorf("after the change: %s", got)
	}
	one.CloseIdleConnections()
	two.CloseIdleConnections()
	eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
	if log := g.access.String(); !strings.Contains(log, `"alpn":"h2"`) || !strings.Contains(log, `"listener":"https-b"`) {
		t.Errorf("access log:\n%s", log)
	}
}

func TestARequestForAnotherListenerIsMisdirected(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	webGateway(t, &Server{}, plain, secure)
	c := browser(t, plain, secure, false)
	req, err := http.NewRequest(http.MethodGet, "https://a.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "b.example"
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("status %d, want 421", resp.StatusCode)
	}
}

// TestEveryHostIsAnsweredByTheListenerOfItsOwn goes through names and hosts of
// listeners that overlap (Gateway API, GatewayHTTPSListenerDetectMisdirectedRequests).
func TestEveryHostIsAnsweredByTheListenerOfItsOwn(t *testing.T) {
	secure := freePort(t)
	listener := func(name, hostname string, h config.HTTPHost) config.Listener {
		return config.Listener{Name: name, Hostname: hostname, Addresses: loopback, Port: secure, Protocol: config.HTTPS,
			TLS: &config.ListenerTLS{Certificates: []string{"c"}}, HTTP: []config.HTTPHost{h}}
	}
	run(t, &Server{}, &config.Snapshot{
		Listeners: []config.Listener{
			listener("every", "", host("example.org", "w1")),
			listener("second", "second-example.org", host("second-example.org", "w2")),
			listener("wildcard", "*.wildcard.org", host("*.wildcard.org", "w3")),
			listener("fourth", "fourth-example.wildcard.org", host("fourth-example.wildcard.org", "w4")),
		},
		Backends:     []config.Backend{web(t, "w1"), web(t, "w2"), web(t, "w3"), web(t, "w4")},
		Certificates: []config.Certificate{certificateFor(t, "c", "*.example.org")},
	})
	for _, h2 := range []bool{false, true} {
		for _, c := range []struct{ sni, host, want string }{
			{"example.org", "example.org", "200 w1 /"},
			{"example.org", "second-example.org", "421"},
			{"example.org", "unknown-example.org", "404"},
			{"second-example.org", "second-example.org", "200 w2 /"},
			{"second-example.org", "example.org", "421"},
			{"second-example.org", "unknown-example.org", "421"},
			{"third-example.wildcard.org", "third-example.wildcard.org", "200 w3 /"},
			{"third-example.wildcard.org", "fifth-example.wildcard.org", "200 w3 /"},
			{"third-example.wildcard.org", "fourth-example.wildcard.org", "421"},
			{"third-example.wildcard.org", "second-example.org", "421"},
			{"third-example.wildcard.org", "unknown-example.org", "421"},
			{"fourth-example.wildcard.org", "fourth-example.wildcard.org", "200 w4 /"},
			{"fourth-example.wildcard.org", "fifth-example.wildcard.org", "421"},
			{"unknown-example.org", "example.org", "200 w1 /"},
			{"unknown-example.org", "unknown-example.org", "404"},
		} {
			b := browser(t, 0, secure, h2)
			b.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
			req, err := http.NewRequest(http.MethodGet, "https://"+c.sni+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = c.host
			resp, err := b.Do(req)
			if err != nil {
				t.Errorf("HTTP/2 %t, SNI %s, host %s: %v", h2, c.sni, c.host, err)
				continue
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if got := fmt.Sprintf("%d %s", resp.StatusCode, body); err != nil || !strings.HasPrefix(got, c.want) || (resp.ProtoMajor == 2) != h2 {
				t.Errorf("HTTP/2 %t, SNI %s, host %s: %q in HTTP/%d, %v, want %q", h2, c.sni, c.host, got, resp.ProtoMajor, err, c.want)
			}
		}
	}
}

func TestDrainAnswersRequestsInFlight(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2=%v", h2), func(t *testing.T) {
			plain, secure := freePort(t), freePort(t)
			g, _ := webGateway(t, &Server{DrainTimeout: 15 * time.Second}, plain, secure)
			c := browser(t, plain, secure, h2)
			got := make(chan string, 2)
			for _, url := range []string{"http://a.example/slow", "https://a.example/slow"} {
				go func() {
					resp, err := c.Get(url)
					if err != nil {
						got <- err.Error()
						return
					}
					defer resp.Body.Close()
					body, err := io.ReadAll(resp.Body)
					got <- fmt.Sprintf("%s %v", body, err)
				}()
			}
			eventually(t, "two requests", func() bool {
				all := g.s.Connections()
				return len(all) == 2 && all[0].Route != "" && all[1].Route != "" // both are at their backends
			})
			start := time.Now()
			g.stop()
			for range 2 {
				if r := <-got; r != "wa /slow <nil>" {
					t.Errorf("a request during the drain: %s", r)
				}
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("idle HTTP connections held the drain for %v", d)
			}
		})
	}
}

func TestAnHTTPConnectionNamesWhatItsLastRequestWasSentTo(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	g, snap := webGateway(t, &Server{}, plain, secure)
	c := browser(t, plain, secure, false)
	for _, name := range []string{"a", "b"} {
		get(t, c, "http://"+name+".example/")
		found := false
		for _, i := range g.s.Connections() {
			for _, b := range snap.Backends {
				e := fmt.Sprintf("%s:%d", b.Endpoints[0].Host, b.Endpoints[0].Port)
				found = found || b.Name == "w"+name && i.Route == "HTTPRoute/w"+name && i.Backend == b.Name && i.Endpoint == e
			}
		}
		if !found {
			t.Errorf("%s: connections %+v", name, g.s.Connections())
		}
	}
}

func TestHTTP2IsSpokenWithoutTLSToClientsThatBeginWithIt(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	g, _ := webGateway(t, &Server{}, plain, secure)
	c := browser(t, plain, secure, false)
	only2 := new(http.Protocols)
	only2.SetUnencryptedHTTP2(true)
	c.Transport.(*http.Transport).Protocols = only2
	for range 3 {
		if got := get(t, c, "http://a.example/x"); got != "200 HTTP/2 wa /x" {
			t.Errorf("got %s", got)
		}
	}
	if n := len(g.s.Connections()); n != 1 {
		t.Errorf("%d connections, want one for all requests", n)
	}
	c.CloseIdleConnections()
	eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
}
