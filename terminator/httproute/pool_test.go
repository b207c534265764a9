// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

func TestSwapsDisturbNoRequest(t *testing.T) {
	const workers, swaps = 8, 400
	a, b := backend(t, http.HandlerFunc(keyedBackend)), backend(t, http.HandlerFunc(keyedBackend))
	hosts := map[bool][]config.HTTPHost{
		true: to(),
		false: to(func(r *config.HTTPRule) {
			r.Backends = refs("a", 1, "b", 2)
			r.ResponseHeaders = &config.HTTPHeaders{Set: []config.HTTPHeader{{Name: "X", Value: "1"}}}
		}),
	}
	endpoints := map[string]string{"a": a, "b": b}
	g := start(t, state{hosts: hosts[true], endpoints: endpoints})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			c, u := g.plain.Client(), g.plain.URL
			if w%2 == 0 {
				c, u = g.tls.Client(), g.tls.URL
			}
			for i := 0; ctx.Err() == nil; i++ {
				if err := exchangeKeyed(t, c, u, uint64(w*1_000_000+i*2), int64(1+(i*7919)%60_000), i%3 == 0); err != nil {
					t.Errorf("worker %d, exchange %d: %v", w, i, err)
					return
				}
			}
		})
	}
	for i := range swaps {
		protocol := map[string]string{"a": []string{"", "h2c", "ws"}[i%3]}
		g.now.Store(&state{hosts: hosts[i%2 == 0], endpoints: endpoints, protocol: protocol})
		switch i % 3 {
		case 0:
			g.Forget("a")
		case 1:
			g.Retain(func(b string) bool { return b == "a" })
		}
		time.Sleep(3 * time.Millisecond)
	}
	stop()
	wg.Wait()
}

func TestForgottenConnectionsAreNotUsedAgain(t *testing.T) {
	a := backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done() // until the connection or stream ends
		}
	}))
	for _, protocol := range []string{"", "h2c"} {
		t.Run("backend "+protocol, func(t *testing.T) {
			g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}, protocol: map[string]string{"a": protocol}})
			c := g.plain.Client()
			get := func() int {
				res, _ := request(t, c, "GET", g.plain.URL, "", nil, nil)
				return res.StatusCode
			}
			want := func(when string, open int64) {
				t.Helper()
				deadline := time.Now().Add(10 * time.Second)
				for g.open.Load() != open {
					if time.Now().After(deadline) {
						t.Fatalf("%s: %d connections open, want %d", when, g.open.Load(), open)
					}
					time.Sleep(time.Millisecond)
				}
			}
			// A transport may connect for a request that then finds another connection.
			wantNew := func() {
				t.Helper()
				before := g.dials.Load()
				if get(); g.dials.Load() == before {
					t.Error("a request used a forgotten connection")
				}
			}
			for range 5 {
				get()
			}
			want("after 5 requests", 1)

			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "GET", g.plain.URL+"/wait", nil)
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			g.Forget("a")
			wantNew()
			want("one request on the forgotten connection, one on a new one", 2)
			cancel()
			_ = res.Body.Close()
			want("the last request on the forgotten connection ended", 1)
			get()
			want("one more request", 1)

			g.Retain(func(string) bool { return false })
			want("no backend retained", 0)
			wantNew()
			g.Close()
			want("closed", 0)
			if code := get(); code != http.StatusServiceUnavailable {
				t.Errorf("after Close: status %d", code)
			}
		})
	}
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	const n = 2 * maxIdlePerBackend
	var all sync.WaitGroup
	all.Add(n)
	a := backend(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		all.Done()
		all.Wait() // all at once, each on a connection of its own
	}))
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
	c := g.plain.Client()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() { request(t, c, "GET", g.plain.URL, "", nil, nil) })
	}
	wg.Wait()
	deadline := time.Now().Add(10 * time.Second)
	for g.open.Load() > maxIdlePerBackend && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if g.dials.Load() != n || g.open.Load() != maxIdlePerBackend {
		t.Errorf("of %d connections %d stay open, want %d of %d", g.dials.Load(), g.open.Load(), maxIdlePerBackend, n)
	}
}
