// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-gateway/sluice/agent/config"
)

func TestBackendSeesTheRequestAsSentAndWhoSentIt(t *testing.T) {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": echoBackend(t, "a")}})
	each(t, g, func(t *testing.T, c *http.Client, url string) {
		header := http.Header{
			"User-Agent":              {"curl/7.68.0"},
			"Accept-Encoding":         {"identity"},
			"X-Twice":                 {"1", "2"},
			"X-Forwarded-For":         {"192.0.2.7"},
			"X-Forwarded-Proto":       {"gopher"},
			"X-Forwarded-Host":        {"evil.example"},
			"X-Forwarded-Client-Cert": {`Subject="CN=admin";URI=spiffe://example/admin`},
			"Forwarded":               {"for=192.0.2.7"},
			"X-Envoy-Internal":        {"true"},
			"X-Request-Id":            {"mine"},
		}
		res, body := request(t, c, "PUT", url+"/a//b%2Fc;d?x=1;y=%zz&&z", "www.example.com:8443", header, strings.NewReader("hello"))
		got := seen(t, body)
		id := got.Header.Get("X-Request-Id")
		if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(id) {
			t.Errorf("X-Request-Id %q is not a UUIDv4", id)
		}
		scheme, _, _ := strings.Cut(url, ":")
		want := echo{
			Backend: "a", Proto: "HTTP/1.1", Method: "PUT", URI: "/a//b%2Fc;d?x=1;y=%zz&&z", Host: "www.example.com:8443", Body: "hello",
			Header: http.Header{
				"Content-Length":           {"5"},
				"User-Agent":               {"curl/7.68.0"},
				"Accept-Encoding":          {"identity"},
				"X-Twice":                  {"1", "2"},
				"X-Forwarded-For":          {"192.0.2.7, 127.0.0.1"},
				"X-Forwarded-Proto":        {scheme},
				"X-Envoy-External-Address": {"127.0.0.1"},
				"X-Request-Id":             {id},
			},
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		if res.StatusCode != 200 || res.Header.Get("X-Backend") != "a" {
			t.Errorf("status %d, header %v", res.StatusCode, res.Header)
		}
	})
}

func TestClientCannotDropForwardingHeadersAsHopByHop(t *testing.T) {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": echoBackend(t, "a")}})
	_, body := request(t, g.plain.Client(), "GET", g.plain.URL, "", http.Header{
		"X-Forwarded-For": {"192.0.2.7"},
		"Connection":      {"X-Forwarded-For, X-Envoy-External-Address, X-Forwarded-Proto, X-Other"},
		"X-Other":         {"1"},
		"Keep-Alive":      {"5"},
	}, nil)
	got := seen(t, body).Header
	want := map[string]string{"X-Forwarded-For": "192.0.2.7, 127.0.0.1", "X-Envoy-External-Address": "127.0.0.1",
		"X-Forwarded-Proto": "http", "X-Other": "", "Keep-Alive": "", "Connection": ""}
	for name, v := range want {
		if got.Get(name) != v {
			t.Errorf("%s is %q, want %q", name, got.Get(name), v)
		}
	}
}

// The rules went by :authority, so the backend must not see another name.
func TestHostHeaderBesideAuthorityIsDropped(t *testing.T) {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": echoBackend(t, "a")}})
	frames := http2Request(t, g, [][2]string{
		{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "example.com"}, {"host", "evil.example"},
	})
	if got := seen(t, frames); got.Host != "example.com" {
		t.Errorf("backend saw host %q", got.Host)
	}
}

// A space ends the target on the request line of HTTP/1, which the backend speaks.
func TestSpacesInAQueryStayInTheTarget(t *testing.T) {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": echoBackend(t, "a")}})
	frames := http2Request(t, g, [][2]string{
		{":method", "GET"}, {":scheme", "https"}, {":path", "/a b?c d HTTP/1.0"}, {":authority", "example.com"},
	})
	if got := seen(t, frames); got.URI != "/a%20b?c%20d%20HTTP/1.0" || got.Proto != "HTTP/1.1" {
		t.Errorf("backend saw %q of %s", got.URI, got.Proto)
	}
}

// http2Request sends a header as it is and returns the body of the response.
func http2Request(t *testing.T, g *gateway, header [][2]string) []byte {
	t.Helper()
	c, err := tls.Dial("tcp", g.tls.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range header {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	f := http2.NewFramer(c, c)
	_, _ = io.WriteString(c, http2.ClientPreface)
	if err := errors.Join(f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
	})); err != nil {
		t.Fatal(err)
	}
	var body []byte
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.DataFrame:
			body = append(body, frame.Data()...)
		case *http2.RSTStreamFrame:
			t.Fatalf("stream reset: %v", frame.ErrCode)
		}
		if frame.Header().StreamID == 1 && frame.Header().Flags.Has(http2.FlagDataEndStream) {
			return body
		}
	}
}

func TestResponsesArePassedOnAsTheyAre(t *testing.T) {
	a := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		w.Header()["Date"] = []string{"Mon, 04 Aug 2025 14:23:59 GMT"}
		w.Header()["X-Content-Type-Options"] = []string{"nosniff"}
		w.Header()["Set-Cookie"] = []string{"a=1", "b=2"}
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("Content-Length", "6")
		w.WriteHeader(203)
		_, _ = io.WriteString(w, "<html>")
	}))
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
	each(t, g, func(t *testing.T, c *http.Client, url string) {
		for _, method := range []string{"GET", "HEAD"} {
			res, body := request(t, c, method, url, "", nil, nil)
			want := http.Header{
				"Date":                   {"Mon, 04 Aug 2025 14:23:59 GMT"},
				"X-Content-Type-Options": {"nosniff"},
				"Set-Cookie":             {"a=1", "b=2"},
				"Content-Length":         {"6"},
			}
			if d := cmp.Diff(want, res.Header); d != "" || res.StatusCode != 203 || len(body) != len("<html>")*btoi(method == "GET") {
				t.Errorf("%s: status %d, body %q, header %s", method, res.StatusCode, body, d)
			}
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestFiltersChangeRequestAndResponse(t *testing.T) {
	one := "/one"
	hosts := to(func(r *config.HTTPRule) {
		r.Match.Path = "/prefix"
		r.RequestHeaders = &config.HTTPHeaders{
			Remove: []string{"X-Remove"},
			Set:    []config.HTTPHeader{{Name: "X-Set", Value: "rule"}, {Name: "X-Both", Value: "rule"}},
			Add:    []config.HTTPHeader{{Name: "X-Add", Value: "rule"}},
		}
		r.ResponseHeaders = &config.HTTPHeaders{Remove: []string{"X-Backend"}, Set: []config.HTTPHeader{{Name: "X-Res", Value: "rule"}}}
		r.Backends[0].RequestHeaders = &config.HTTPHeaders{Set: []config.HTTPHeader{{Name: "X-Both", Value: "backend"}}}
		r.Backends[0].ResponseHeaders = &config.HTTPHeaders{Add: []config.HTTPHeader{{Name: "X-Res-Add", Value: "backend"}}}
		r.URLRewrite = &config.HTTPURLRewrite{Hostname: "rewritten.example", Path: &config.HTTPPathChange{Prefix: "/new"}}
	})
	hosts[0].Rules = append(hosts[0].Rules, to(func(r *config.HTTPRule) {
		r.Match.Path = "/full"
		r.URLRewrite = &config.HTTPURLRewrite{Path: &config.HTTPPathChange{Full: &one}}
		r.RequestHeaders = &config.HTTPHeaders{Set: []config.HTTPHeader{{Name: "Host", Value: "set.example"}}}
	})[0].Rules...)
	g := start(t, state{hosts: hosts, endpoints: map[string]string{"a": echoBackend(t, "a")}})
	each(t, g, func(t *testing.T, c *http.Client, url string) {
		res, body := request(t, c, "GET", url+"/prefix/b%2Fc?q=1", "example.com", http.Header{
			"X-Remove": {"1"}, "X-Set": {"client"}, "X-Add": {"client"},
		}, nil)
		got := seen(t, body)
		if got.URI != "/new/b%2Fc?q=1" || got.Host != "rewritten.example" {
			t.Errorf("backend saw %s at %s", got.URI, got.Host)
		}
		if res.Header.Get("X-Backend") != "" || res.Header.Get("X-Res") != "rule" || res.Header.Get("X-Res-Add") != "backend" {
			t.Errorf("response header %v", res.Header)
		}
		for name, want := range map[string]string{"X-Remove": "", "X-Set": "rule", "X-Add": "client,rule", "X-Both": "backend"} {
			if v := strings.Join(got.Header[name], ","); v != want {
				t.Errorf("%s is %q, want %q", name, v, want)
			}
		}
		_, body = request(t, c, "GET", url+"/full/x/y?q=1", "example.com", nil, nil)
		if got := seen(t, body); got.URI != "/one?q=1" || got.Host != "set.example" {
			t.Errorf("backend saw %s at %s", got.URI, got.Host)
		}
	})
}

func TestRedirects(t *testing.T) {
	full := "/full"
	cases := []struct {
		name     string
		redirect config.HTTPRedirect
		host     string
		port     uint16
		plain    string // Location for http
		tls      string // Location for https
	}{
		{"nothing changed", config.HTTPRedirect{}, "example.com:9", 80, "http://example.com/old/x%2Fy?q=1", "https://example.com:80/old/x%2Fy?q=1"},
		{"port of the listener", config.HTTPRedirect{}, "example.com", 8080, "http://example.com:8080/old/x%2Fy?q=1", "https://example.com:8080/old/x%2Fy?q=1"},
		{"well-known port of the listener", config.HTTPRedirect{}, "example.com", 443, "http://example.com:443/old/x%2Fy?q=1", "https://example.com/old/x%2Fy?q=1"},
		{"scheme brings its port", config.HTTPRedirect{Scheme: "https"}, "example.com", 8080, "https://example.com/old/x%2Fy?q=1", "https://example.com/old/x%2Fy?q=1"},
		{"scheme http", config.HTTPRedirect{Scheme: "http"}, "example.com", 8443, "http://example.com/old/x%2Fy?q=1", "http://example.com/old/x%2Fy?q=1"},
		{"unknown scheme keeps the port", config.HTTPRedirect{Scheme: "ftp"}, "example.com", 8080, "ftp://example.com:8080/old/x%2Fy?q=1", "ftp://example.com:8080/old/x%2Fy?q=1"},
		{"scheme and port", config.HTTPRedirect{Scheme: "https", Port: 8443}, "example.com", 80, "https://example.com:8443/old/x%2Fy?q=1", "https://example.com:8443/old/x%2Fy?q=1"},
		{"port 80 alone", config.HTTPRedirect{Port: 80}, "example.com", 8080, "http://example.com/old/x%2Fy?q=1", "https://example.com:80/old/x%2Fy?q=1"},
		{"hostname", config.HTTPRedirect{Hostname: "other.example"}, "example.com", 80, "http://other.example/old/x%2Fy?q=1", "https://other.example:80/old/x%2Fy?q=1"},
		{"IPv6", config.HTTPRedirect{Port: 81}, "[::1]:80", 80, "http://[::1]:81/old/x%2Fy?q=1", "https://[::1]:81/old/x%2Fy?q=1"},
		{"prefix", config.HTTPRedirect{Scheme: "https", Path: &config.HTTPPathChange{Prefix: "/new"}}, "example.com", 80, "https://example.com/new/x%2Fy?q=1", "https://example.com/new/x%2Fy?q=1"},
		{"full path", config.HTTPRedirect{Scheme: "https", Path: &config.HTTPPathChange{Full: &full}}, "example.com", 80, "https://example.com/full?q=1", "https://example.com/full?q=1"},
	}
	var port uint16
	g := start(t, state{})
	g.Listener = func(*http.Request, string) Listener { return Listener{Hosts: g.now.Load().hosts, Port: port} }
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.redirect.Code = []int{0, 301, 302, 303, 307, 308}[i%6]
			port = c.port
			g.now.Store(&state{hosts: to(func(r *config.HTTPRule) {
				r.Match.Path, r.Redirect, r.Backends = "/old", &c.redirect, nil
				r.ResponseHeaders = &config.HTTPHeaders{Set: []config.HTTPHeader{{Name: "X-Res", Value: "1"}}}
			})})
			each(t, g, func(t *testing.T, cl *http.Client, url string) {
				want := c.plain
				if strings.HasPrefix(url, "https") {
					want = c.tls
				}
				res, _ := request(t, cl, "GET", url+"/old/x%2Fy?q=1", c.host, nil, nil)
				if got := res.Header.Get("Location"); got != want || res.StatusCode != max(c.redirect.Code, 301+btoi(c.redirect.Code == 0)) || res.Header.Get("X-Res") == "" {
					t.Errorf("%d to %q, want %q", res.StatusCode, got, want)
				}
			})
		})
	}
}

func TestStatusOfWhatCannotBeForwarded(t *testing.T) {
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = refused.Close()
	silent := rawBackend(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	g := start(t, state{endpoints: map[string]string{
		"a":       echoBackend(t, "a"),
		"refused": refused.Addr().String(),
		"silent":  silent,
		"garbage": rawBackend(t, func(c *net.TCPConn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
			_ = c.CloseWrite()
		}),
		"hangup": rawBackend(t, func(c *net.TCPConn) { _, _ = c.Read(make([]byte, 4096)) }),
		"h2c":    silent,
	}, protocol: map[string]string{"h2c": "h2c"}})
	with := func(refs []config.HTTPBackendRef) func(*config.HTTPRule) {
		return func(r *config.HTTPRule) { r.Backends = refs }
	}
	cases := []struct {
		name string
		rule func(*config.HTTPRule)
		want int
	}{
		{"no rule matches", func(r *config.HTTPRule) { r.Match.Path = "/other" }, 404},
		{"invalid rule", func(r *config.HTTPRule) { r.Invalid = true }, 500},
		{"invalid wins over redirect", func(r *config.HTTPRule) { r.Invalid, r.Redirect = true, &config.HTTPRedirect{} }, 500},
		{"no backends", with(nil), 500},
		{"all weigh 0", with(refs("a", 0)), 500},
		{"unresolved reference", with(refs("", 1, "a", 0)), 500},
		{"no endpoint", with(refs("empty", 1)), 503},
		{"refused", with(refs("refused", 1)), 502},
		{"not HTTP", with(refs("garbage", 1)), 502},
		{"hangs up", with(refs("hangup", 1)), 502},
		{"request timeout", func(r *config.HTTPRule) { r.Backends, r.RequestTimeout = refs("silent", 1), 50*time.Millisecond }, 504},
		{"backend timeout", func(r *config.HTTPRule) {
			r.Backends, r.RequestTimeout, r.BackendTimeout = refs("silent", 1), time.Minute, 50*time.Millisecond
		}, 504},
		{"timeout of a backend that is not HTTP/2", func(r *config.HTTPRule) { r.Backends, r.RequestTimeout = refs("h2c", 1), 50*time.Millisecond }, 504},
		{"in time", func(r *config.HTTPRule) { r.RequestTimeout, r.BackendTimeout = time.Minute, time.Minute }, 200},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := *g.now.Load()
			s.hosts = to(c.rule)
			g.now.Store(&s)
			each(t, g, func(t *testing.T, cl *http.Client, url string) {
				if res, _ := request(t, cl, "POST", url+"/x", "example.com", nil, strings.NewReader("body")); res.StatusCode != c.want {
					t.Errorf("status %d, want %d", res.StatusCode, c.want)
				}
			})
		})
	}
}

func TestMisdirectedAndUnclearRequests(t *testing.T) {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": echoBackend(t, "a")}})
	plain := g.Listener
	g.Listener = func(r *http.Request, host string) Listener {
		l := plain(r, host)
		l.Misdirected = r.TLS != nil && host != "mine.example"
		l.Unverified = r.Header.Get("Cookie") == "stranger"
		return l
	}
	c := g.tls.Client()
	if res, _ := request(t, c, "GET", g.tls.URL, "mine.example", http.Header{"Cookie": {"stranger"}}, nil); res.StatusCode != 421 {
		t.Errorf("a client without a certificate that is asked for now: status %d", res.StatusCode)
	}
	for host, want := range map[string]int{"mine.example": 200, "Mine.Example.:443": 200, "other.example": 421} {
		if res, _ := request(t, c, "GET", g.tls.URL, host, nil, nil); res.StatusCode != want {
			t.Errorf("host %s: status %d, want %d", host, res.StatusCode, want)
		}
	}
	for target, want := range map[string]int{
		"GET /a/..%2Fb HTTP/1.1": 400, "GET x:y HTTP/1.1": 400, "CONNECT example.com:443 HTTP/1.1": 501,
		"GET http://example.com HTTP/1.1": 200, "TRACE / HTTP/1.1": 200,
	} {
		if got := raw(t, g, target+"\r\nHost: example.com\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", want)) {
			t.Errorf("%s: %.30q, want %d", target, got, want)
		}
	}
}

// raw sends bytes to the plain server and returns what comes back.
func raw(t *testing.T, g *gateway, send string) string {
	t.Helper()
	c, err := net.Dial("tcp", g.plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("%v after %q", err, got)
	}
	return string(got)
}
