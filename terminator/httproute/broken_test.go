// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// talker answers each request on a connection with the same bytes and then
// ends the connection, by a reset or in order.
func talker(t *testing.T, answer string, reset bool) string {
	return rawBackend(t, func(c *net.TCPConn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = io.WriteString(c, answer)
		if reset {
			time.Sleep(50 * time.Millisecond) // let the gateway read it
			_ = c.SetLinger(0)
		}
	})
}

// answerCases are responses that break off, and ones that do not.
var answerCases = []struct {
	name, answer  string
	reset, broken bool
}{
	{"length, FIN too early", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", false, true},
	{"length, reset", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", true, true},
	{"chunks, FIN between them", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false, true},
	{"chunks, FIN within one", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello", false, true},
	{"chunks, FIN before the end of trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n", false, true},
	{"chunks, reset", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true, true},
	{"garbage for a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", false, true},
	{"until close, reset", "HTTP/1.0 200 OK\r\n\r\nhello", true, true},
	{"until close, FIN", "HTTP/1.0 200 OK\r\n\r\nhello", false, false},
	{"length, all of it", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", true, false},
	{"chunks, all of them", "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true, false},
}

func TestAResponseThatBrokeOffNeverLooksFinished(t *testing.T) {
	for _, c := range answerCases {
		t.Run(c.name, func(t *testing.T) {
			g := start(t, state{hosts: to(), endpoints: map[string]string{"a": talker(t, c.answer, c.reset)}})
			each(t, g, func(t *testing.T, cl *http.Client, url string) {
				for _, method := range []string{"GET", "POST"} {
					body, err := func() ([]byte, error) {
						req, _ := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("x"))
						res, err := cl.Do(req)
						if err != nil {
							return nil, err
						}
						defer func() { _ = res.Body.Close() }()
						return io.ReadAll(res.Body)
					}()
					if broken := err != nil; broken != c.broken || !broken && string(body) != "hello" {
						t.Errorf("%s: body %q, error %v, want one: %v", method, body, err, c.broken)
					}
				}
			})
			// To HTTP/1.0 the end of the connection is the end of the response.
			for _, secure := range []bool{false, true} {
				got, err := http10(g, secure)
				if broken := err != nil; broken != c.broken || !broken && !strings.HasSuffix(got, "hello") {
					t.Errorf("HTTP/1.0, TLS %v: %q, error %v, want one: %v", secure, got, err, c.broken)
				}
			}
		})
	}
}

// http10 reads a response up to the end of the connection.
func http10(g *gateway, secure bool) (string, error) {
	var c net.Conn
	c, err := net.Dial("tcp", g.plain.Listener.Addr().String())
	if secure {
		c, err = tls.Dial("tcp", g.tls.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\nHost: x\r\n\r\n"); err != nil {
		return "", err
	}
	got, err := io.ReadAll(c)
	if err == nil && strings.Contains(string(got), "Content-Length: 10") {
		err = errors.New("short of its length")
	}
	return string(got), err
}

func TestARequestThatBreaksOffNeverLooksFinished(t *testing.T) {
	ended := make(chan error, 1)
	a := backend(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	}))
	cases := map[string]struct {
		send  string
		reset bool
	}{
		"length, FIN":           {"Content-Length: 10\r\n\r\nhello", false},
		"length, reset":         {"Content-Length: 10\r\n\r\nhello", true},
		"chunks, FIN":           {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false},
		"chunks, reset":         {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true},
		"garbage for a chunk":   {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", false},
		"chunk without its end": {"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX", false},
	}
	for _, protocol := range []string{"", "h2c"} {
		g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}, protocol: map[string]string{"a": protocol}})
		for name, c := range cases {
			conn, err := net.Dial("tcp", g.plain.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\n"+c.send)
			time.Sleep(20 * time.Millisecond)
			if c.reset {
				_ = conn.(*net.TCPConn).SetLinger(0)
			}
			_ = conn.Close()
			select {
			case err := <-ended:
				if err == nil {
					t.Errorf("%s, backend %q: the backend took the request for complete", name, protocol)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("%s, backend %q: the backend still waits", name, protocol)
			}
		}
	}
}

func TestBrokenBodyIsTheClientsFaultAndEndsItsConnection(t *testing.T) {
	a := backend(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
	got := raw(t, g, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Count(got, "HTTP/1.1") != 1 {
		t.Errorf("got %q", got)
	}
}

// What the backend did not take of a request must not be read as the next one,
// whatever it looks like.
func TestAnEarlyResponseEndsTheConnection(t *testing.T) {
	a := rawBackend(t, func(c *net.TCPConn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
	c, err := net.Dial("tcp", g.plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusForbidden || !res.Close {
		t.Fatalf("response %+v, %v", res, err)
	}
	_, _ = io.WriteString(c, "zz\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if rest, _ := io.ReadAll(br); strings.Contains(string(rest), "HTTP/1.1") {
		t.Errorf("another response: %q", rest)
	}
}

func TestConflictingFramingIsRefusedOrReadAsOne(t *testing.T) {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": echoBackend(t, "a")}})
	const tail = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	cases := []struct{ name, head, want string }{
		{"two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "400"},
		{"list of lengths", "Content-Length: 5, 6\r\n\r\n", "400"},
		{"negative length", "Content-Length: -5\r\n\r\n", "400"},
		{"signed length", "Content-Length: +5\r\n\r\n", "400"},
		{"unknown coding", "Transfer-Encoding: gzip, chunked\r\n\r\n", "501"},
		{"two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", "501"},
		{"obscured coding", "Transfer-Encoding: xchunked\r\n\r\n", "501"},
		{"space before the colon", "Transfer-Encoding : chunked\r\n\r\n", "400"},
		{"bare CR in a value", "X: a\rTransfer-Encoding: chunked\r\n\r\n", "400"},
		{"NUL in a value", "X: a\x00b\r\n\r\n", "400"},
		{"folded header", "X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", "200"},
		{"two hosts", "Host: y\r\n\r\n", "400"},
	}
	for _, c := range cases {
		got := raw(t, g, "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"+c.head+tail)
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.want) || strings.Contains(got, "smuggled") {
			t.Errorf("%s: got %q, want %s alone", c.name, got, c.want)
		}
	}
	// A length next to chunks is ignored and not passed on (RFC 9112 section
	// 6.3), so that all read the same body.
	got := raw(t, g, fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n%s", tail))
	if !strings.Contains(got, `"Body":"hello"`) || strings.Contains(got, "Content-Length\":[") || strings.Contains(got, "smuggled") {
		t.Errorf("length and chunks: got %q", got)
	}
}
