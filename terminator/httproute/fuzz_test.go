// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

func FuzzHostname(f *testing.F) {
	for _, s := range []string{"", "Example.com.:80", "[::1]:80", "[", "]:", ":", "a:b:c", "\x00."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := hostname(s)
		if got != strings.ToLower(got) {
			t.Errorf("hostname(%q) = %q is not lower case", s, got)
		}
		if config.MatchHostname("*.example.com", got) != strings.HasSuffix(got[min(1, len(got)):], ".example.com") {
			t.Errorf("hostname(%q) = %q does not match by its suffix", s, got)
		}
	})
}

// Whatever the target: rules see no dot segments, a changed path is one, and
// what follows a prefix is what follows it in decoded form.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/a/%2e%2E/b%2fc", "//x/./", "/foo%2Fbar/..", "http://h", "http://h/../x", "*", "x:y", "/%", "/\xff", "/a;b?c=%zz"} {
		f.Add(s, "/foo", "/xyz/")
	}
	f.Add("/f%6Fo/bar", "/f%6fo/", "x y%2F")
	f.Fuzz(func(t *testing.T, target, prefix, replacement string) {
		in, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		u, ok := normalized(in)
		if !ok {
			return
		}
		for s := range strings.SplitSeq(u.Path, "/") {
			if isDots(s) {
				t.Fatalf("%q became %q", target, u.Path)
			}
		}
		again, ok := normalized(&u)
		if !ok || again.EscapedPath() != u.EscapedPath() {
			t.Fatalf("%q became %q, then %q", target, u.EscapedPath(), again.EscapedPath())
		}
		for n := range len(u.Path) + 1 {
			if got := decoded(after(u.EscapedPath(), n)); got != u.Path[n:] {
				t.Fatalf("after %d bytes of %q comes %q, want %q", n, u.EscapedPath(), got, u.Path[n:])
			}
		}
		match := config.HTTPMatch{Path: prefix}
		m := matcher{r: &http.Request{URL: in}, path: u.Path}
		if !m.matches(&match) {
			return
		}
		changePath(&u, &match, &config.HTTPPathChange{Prefix: replacement})
		if !strings.HasPrefix(u.EscapedPath(), "/") {
			t.Fatalf("%q, prefix %q to %q: %q", target, prefix, replacement, u.EscapedPath())
		}
		if _, err := url.ParseRequestURI(u.RequestURI()); err != nil {
			t.Fatalf("%q, prefix %q to %q: %v", target, prefix, replacement, err)
		}
	})
}

// Whatever a client sends: the backend behind /ok sees requests for paths
// below /ok alone, from the rule's host, and named as the gateway names them.
func FuzzRequest(f *testing.F) {
	var wrong atomic.Pointer[string]
	a := backend(f, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clean := path.Clean(r.URL.Path)
		if r.Header.Get("X-Request-Id") == "" || r.Host != "example.com" || clean != "/ok" && !strings.HasPrefix(clean, "/ok/") {
			wrong.Store(new(r.Method + " " + r.RequestURI + " at " + r.Host))
		}
		_, _ = io.Copy(w, r.Body)
	}))
	g := start(f, state{hosts: []config.HTTPHost{{Hostname: "example.com", Rules: to(func(r *config.HTTPRule) {
		r.Match.Path = "/ok"
		r.URLRewrite = &config.HTTPURLRewrite{Hostname: "example.com"}
	})[0].Rules}}, endpoints: map[string]string{"a": a}})
	const head = "Host: example.com\r\n"
	for _, s := range []string{
		"GET /ok HTTP/1.1\r\n" + head + "\r\n",
		"GET /ok/../x HTTP/1.1\r\n" + head + "\r\n",
		"GET http://example.com/ok HTTP/1.1\r\nHost: y\r\n\r\n",
		"POST /ok HTTP/1.1\r\n" + head + "Content-Length: 5\r\n\r\nhelloGET /no HTTP/1.1\r\n" + head + "\r\n",
		"POST /ok HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\nGET /ok/2 HTTP/1.1\r\n" + head + "\r\n",
		"POST /ok HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"GET /ok HTTP/1.1\r\n" + head + "Connection: Upgrade, X-Request-Id\r\nUpgrade: h2c\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := net.Dial("tcp", g.plain.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = c.Write(data)
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		if w := wrong.Swap(nil); w != nil {
			t.Errorf("the backend saw %s", *w)
		}
	})
}

// Whatever a backend sends: the client gets the response that is in it, whole,
// or an error.
func FuzzResponse(f *testing.F) {
	var answer atomic.Pointer[[]byte]
	a := rawBackend(f, func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = c.Write(*answer.Load())
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}
	})
	g := start(f, state{hosts: to(func(r *config.HTTPRule) {
		r.ResponseHeaders = &config.HTTPHeaders{Set: []config.HTTPHeader{{Name: "X-From", Value: "backend"}}}
	}), endpoints: map[string]string{"a": a}})
	for _, c := range answerCases {
		f.Add([]byte(c.answer))
	}
	f.Add([]byte("HTTP/1.1 +00 ?\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n0\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		answer.Store(&data)
		defer g.Forget("a")
		res, err := g.plain.Client().Get(g.plain.URL)
		if err != nil {
			return
		}
		defer func() { _ = res.Body.Close() }()
		got, err := io.ReadAll(res.Body)
		if err != nil || res.Header.Get("X-From") == "" {
			return // broken off, or the gateway's own answer
		}
		want, err := reference(data)
		if err != nil || !bytes.Equal(want, got) {
			t.Errorf("body %q, want %q, %v", got, want, err)
		}
	})
}

// reference is the body of the final response in data.
func reference(data []byte) ([]byte, error) {
	br := bufio.NewReader(bytes.NewReader(data))
	for {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 {
			return io.ReadAll(res.Body)
		}
	}
}
