// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// idleGateway ends requests of HTTP/2 of which nothing moves.
func idleGateway(t *testing.T, limit time.Duration, backend string) *gateway {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": backend, "b": echoBackend(t, "b")}})
	g.Listener = func(r *http.Request, _ string) Listener {
		if r.URL.Path == "/other" {
			return Listener{Hosts: to(func(r *config.HTTPRule) { r.Backends = refs("b", 1) })}
		}
		return Listener{Hosts: g.now.Load().hosts, IdleTimeout: limit}
	}
	return g
}

// busy keeps a connection busy with requests until stop is called.
func busy(t *testing.T, c *http.Client, url string) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
			res, err := c.Get(url + "/other")
			if err != nil {
				t.Error(err)
				return
			}
			_ = res.Body.Close()
		}
	}()
	return func() { close(end); <-ended }
}

func TestARequestThatStandsStillEndsOnABusyConnection(t *testing.T) {
	for name, c := range map[string]struct {
		backend func(w http.ResponseWriter, r *http.Request)
		body    func() io.Reader
		want    int
	}{
		"the client does not go on with its body": {
			func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
			func() io.Reader {
				pr, pw := io.Pipe()
				go func() { _, _ = io.WriteString(pw, "x") }()
				t.Cleanup(func() { _ = pw.Close() })
				return pr
			}, http.StatusRequestTimeout},
		"the backend does not answer": {
			func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
			func() io.Reader { return nil }, http.StatusGatewayTimeout},
		"the client does not read": {
			func(w http.ResponseWriter, _ *http.Request) { _ = keyed.Send(w, 1, 1<<30, 1<<16) },
			func() io.Reader { return nil }, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			left := make(chan struct{}, 1)
			g := idleGateway(t, 200*time.Millisecond, backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c.backend(w, r)
				left <- struct{}{}
			})))
			cl := g.tls.Client()
			defer busy(t, cl, g.tls.URL)()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "POST", g.tls.URL, c.body())
			if err != nil {
				t.Fatal(err)
			}
			res, err := cl.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			select {
			case <-left:
			case <-time.After(10 * time.Second):
				t.Error("the backend is still held")
			}
			_, err = io.Copy(io.Discard, res.Body)
			if res.StatusCode != c.want || res.ProtoMajor != 2 || (err != nil) != (c.want == http.StatusOK) {
				t.Errorf("%s over HTTP/%d, %v, want %d", res.Status, res.ProtoMajor, err, c.want)
			}
		})
	}
}

func TestARequestThatMovesNowAndThenGoesOn(t *testing.T) {
	const limit = 4 * time.Second
	g := idleGateway(t, limit, backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			if _, err := io.ReadFull(r.Body, make([]byte, 1)); err != nil {
				panic(http.ErrAbortHandler)
			}
		}
		for range 3 {
			time.Sleep(limit / 4)
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
		}
	})))
	pr, pw := io.Pipe()
	go func() {
		for range 3 {
			time.Sleep(limit / 4)
			_, _ = io.WriteString(pw, "x")
		}
		_ = pw.Close()
	}()
	if res, body := request(t, g.tls.Client(), "POST", g.tls.URL, "example.com", nil, pr); res.StatusCode != 200 || string(body) != "xxx" {
		t.Errorf("%s, %q", res.Status, body)
	}
}
