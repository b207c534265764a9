// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// keyedBackend checks the request's stream and answers with another:
// /KEY/SIZE. It does both at once.
func keyedBackend(w http.ResponseWriter, r *http.Request) {
	var key uint64
	var size int64
	if _, err := fmt.Sscanf(r.URL.Path, "/%d/%d", &key, &size); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = http.NewResponseController(w).EnableFullDuplex()
	if r.URL.RawQuery == "known" {
		w.Header().Set("Content-Length", fmt.Sprint(size))
	}
	received := make(chan error, 1)
	go func() { received <- keyed.Receive(r.Body, key, size) }()
	w.WriteHeader(http.StatusOK)
	err := errors.Join(keyed.Send(w, key+1, size, 10_000), <-received)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

func exchangeKeyed(t *testing.T, c *http.Client, url string, key uint64, size int64, known bool) error {
	pr, pw := io.Pipe()
	go func() { _ = pw.CloseWithError(keyed.Send(pw, key, size, 7_000)) }()
	target := fmt.Sprintf("%s/%d/%d", url, key, size)
	if known {
		target += "?known"
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", target, pr)
	if err != nil {
		return err
	}
	if known {
		req.ContentLength = size
	}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", res.Status)
	}
	return keyed.Receive(res.Body, key+1, size)
}

func TestBodiesStreamBothWaysAtOnce(t *testing.T) {
	a := backend(t, http.HandlerFunc(keyedBackend))
	for _, protocol := range []string{"", "h2c"} {
		g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}, protocol: map[string]string{"a": protocol}})
		t.Run("backend "+protocol, func(t *testing.T) {
			each(t, g, func(t *testing.T, c *http.Client, url string) {
				var wg sync.WaitGroup
				for i, size := range []int64{1, 3_000, 40_000, 300_000, 5_000_000} {
					for _, known := range []bool{false, true} {
						wg.Go(func() {
							key := uint64(i*10 + btoi(known)*2)
							if err := exchangeKeyed(t, c, url, key, size, known); err != nil {
								t.Errorf("%d bytes, length known %v: %v", size, known, err)
							}
						})
					}
				}
				wg.Wait()
			})
		})
	}
}

func TestAnEchoIsPassedOnWhileTheRequestGoesOn(t *testing.T) {
	a := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}))
	for _, protocol := range []string{"", "h2c"} {
		g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}, protocol: map[string]string{"a": protocol}})
		each(t, g, func(t *testing.T, c *http.Client, url string) {
			pr, pw := io.Pipe()
			req, _ := http.NewRequestWithContext(t.Context(), "POST", url, pr)
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			buf := make([]byte, 100)
			for i := range 20 {
				msg := fmt.Sprintf("message %d", i)
				if _, err := io.WriteString(pw, msg); err != nil {
					t.Fatal(err)
				}
				n, err := io.ReadFull(res.Body, buf[:len(msg)])
				if err != nil || string(buf[:n]) != msg {
					t.Fatalf("got %q, %v, want %q", buf[:n], err, msg)
				}
			}
			_ = pw.Close()
			if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
				t.Errorf("rest %q, %v", rest, err)
			}
		})
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	a := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Sum", "of "+r.Trailer.Get("X-Client-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "yes")
	}))
	for _, protocol := range []string{"", "h2c"} {
		g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}, protocol: map[string]string{"a": protocol}})
		each(t, g, func(t *testing.T, c *http.Client, url string) {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", url, io.MultiReader(strings.NewReader("hello")))
			req.Trailer = http.Header{"X-Client-Sum": {"7"}}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			want := http.Header{"X-Sum": {"of 7"}, "X-Unannounced": {"yes"}}
			if d := cmp.Diff(want, res.Trailer); d != "" || err != nil || string(body) != "hello" {
				t.Errorf("body %q, %v, trailer %s", body, err, d)
			}
		})
	}
}

// To a backend that takes trailers for fields of the header they would say who the
// client is, and what a rule removes.
func TestTrailersSayNothingForTheGateway(t *testing.T) {
	for _, protocol := range []string{"", "h2c"} {
		g := start(t, state{hosts: to(func(r *config.HTTPRule) {
			r.RequestHeaders = &config.HTTPHeaders{Remove: []string{"x-admin"}, Set: []config.HTTPHeader{{Name: "X-Set", Value: "1"}}}
		}), endpoints: map[string]string{"a": echoBackend(t, "a")}, protocol: map[string]string{"a": protocol}})
		c, err := net.Dial("tcp", g.plain.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Request-Id\r\n\r\n2\r\nhi\r\n0\r\n"+
			"X-Sum: 7\r\nX-Request-Id: forged\r\nX-Forwarded-For: 192.0.2.1\r\nContent-Length: 5\r\nHost: y\r\nX-Admin: yes\r\nX-Set: 2\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		var got echo
		if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if want := (http.Header{"X-Sum": {"7"}}); !cmp.Equal(got.Trailer, want) || got.Body != "hi" {
			t.Errorf("%q: the backend got %q and the trailer %v, want %v", protocol, got.Body, got.Trailer, want)
		}
	}
}

func TestExpectContinueIsTheBackendsToGrant(t *testing.T) {
	a := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		_, _ = io.Copy(w, r.Body)
	}))
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
	c, err := net.Dial("tcp", g.plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	br := bufio.NewReader(c)
	const head = " HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	_, _ = io.WriteString(c, "POST /yes"+head)
	if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("first line %q, %v", line, err)
	}
	_, _ = io.WriteString(c, "hello")
	_, _ = br.ReadString('\n')
	res, err := http.ReadResponse(br, nil)
	for err == nil && res.StatusCode == http.StatusContinue {
		res, err = http.ReadResponse(br, nil) // the backend's, where it came late
	}
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "hello" {
		t.Errorf("body %q, %v", body, err)
	}
	_, _ = io.WriteString(c, "POST /no"+head)
	if res, err = http.ReadResponse(br, nil); err != nil || res.StatusCode != http.StatusExpectationFailed {
		t.Errorf("without leave to send: %v, %v", res, err)
	}
}

func TestEarlyHintsArePassedOn(t *testing.T) {
	a := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.WriteHeader(http.StatusNoContent)
	}))
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
	each(t, g, func(t *testing.T, c *http.Client, url string) {
		hints := ""
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				hints += fmt.Sprint(code, h.Get("Link"))
				return nil
			},
		}), "GET", url, nil)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if hints != "103</style.css>; rel=preload" || res.StatusCode != http.StatusNoContent || len(res.Header["Link"]) > 0 {
			t.Errorf("hints %q, status %d, header %v", hints, res.StatusCode, res.Header)
		}
	})
	// RFC 9110 section 15.2: a client of HTTP/1.0 would take them for the response,
	// and the response for its body.
	if got := raw(t, g, "GET / HTTP/1.0\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 204 ") {
		t.Errorf("HTTP/1.0 gets %q", got)
	}
}

func TestTimeoutEndsAnExchangeWithAStalledClient(t *testing.T) {
	flood := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/upload" {
			_, _ = io.Copy(io.Discard, r.Body)
			return
		}
		_ = keyed.Send(w, 1, 1<<30, 1<<16)
	}))
	g := start(t, state{hosts: to(func(r *config.HTTPRule) { r.RequestTimeout = 100 * time.Millisecond }), endpoints: map[string]string{"a": flood}})
	addr := g.plain.Listener.Addr().String()
	for _, head := range []string{"GET /download HTTP/1.1\r\nHost: x\r\n\r\n", "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(c, head)
		if strings.HasPrefix(head, "POST") {
			got, err := io.ReadAll(c)
			if !strings.HasPrefix(string(got), "HTTP/1.1 504 ") {
				t.Errorf("upload: %q, %v", got, err)
			}
			continue
		}
		// The gateway gives up although nothing was read; the rest of the
		// response then is an error.
		for g.users("a") > 0 || g.dials.Load() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		if n, err := io.Copy(io.Discard, c); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("download ended with %v after %d", err, n)
		}
	}
}

// users is how many requests a backend's pool serves.
func (g *gateway) users(backend string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.pools[Upstream{Backend: backend}]; p != nil {
		return p.users
	}
	return 0
}
