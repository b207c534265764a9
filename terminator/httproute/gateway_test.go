// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Of(m.Run).Run()) }

// state is what the gateway of a test serves; tests swap it.
type state struct {
	hosts     []config.HTTPHost
	endpoints map[string]string // backend: address
	protocol  map[string]string
}

type connKey struct{}

// gateway is a handler behind real servers, one plain and one with TLS and
// HTTP/2, with a client for each.
type gateway struct {
	*Handler
	plain, tls *httptest.Server
	now        atomic.Pointer[state]
	dials      atomic.Int64 // connections to backends so far
	open       atomic.Int64 // of these
}

func start(t testing.TB, s state) *gateway {
	t.Helper()
	g := &gateway{}
	g.now.Store(&s)
	g.Handler = New(Options{
		Listener: func(*http.Request, string) Listener { return Listener{Hosts: g.now.Load().hosts, Port: 8443} },
		Dial:     g.dial,
		Protocol: func(to Upstream) Protocol {
			return Protocol{Name: g.now.Load().protocol[to.Backend]}
		},
		Abort: abortConn,
		Log:   slog.New(slog.DiscardHandler),
	})
	serve := func(start func(*httptest.Server)) *httptest.Server {
		srv := httptest.NewUnstartedServer(g.Handler)
		srv.EnableHTTP2 = true
		srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		}
		srv.Config.ErrorLog = log.New(panics{}, "", 0)
		start(srv)
		srv.Client().CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		return srv
	}
	g.plain, g.tls = serve((*httptest.Server).Start), serve((*httptest.Server).StartTLS)
	t.Cleanup(func() {
		g.plain.Close()
		g.tls.Close()
		g.Close()
	})
	return g
}

// panics is the log of a server; it does not let net/http recover from a panic
// of the handler.
type panics struct{}

func (panics) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "panic") {
		panic(string(b))
	}
	return len(b), nil
}

// dial gives connections that have no more methods than any backend leg has.
func (g *gateway) dial(ctx context.Context, to Upstream) (net.Conn, error) {
	g.dials.Add(1)
	addr := g.now.Load().endpoints[to.Backend]
	if addr == "" {
		return nil, fmt.Errorf("dial %s: %w", to.Backend, ErrNoEndpoint)
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		return nil, err
	}
	g.open.Add(1)
	return &leg{Conn: c, closed: sync.OnceFunc(func() { g.open.Add(-1) })}, nil
}

type leg struct {
	net.Conn
	closed func()
}

func (l *leg) Close() error {
	l.closed()
	return l.Conn.Close()
}

func (l *leg) CloseWrite() error {
	tcp := l.Conn.(*net.TCPConn)
	if err := tcp.CloseWrite(); err != nil {
		return err
	}
	return tcp.SetLinger(-1)
}

// abortConn resets the TCP connection below whatever serves a request.
func abortConn(r *http.Request) {
	c := r.Context().Value(connKey{}).(net.Conn)
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// backend starts a server and returns its address.
func backend(t testing.TB, h http.Handler) string {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// rawBackend starts a server that talks TCP with each connection.
func rawBackend(t testing.TB, talk func(c *net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			talk(c.(*net.TCPConn))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String()
}

// echo is what a backend saw of a request, as JSON.
type echo struct {
	Backend, Proto, Method, URI, Host string
	Header, Trailer                   http.Header
	Body                              string
}

func echoBackend(t *testing.T, name string) string {
	return backend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Backend", name)
		_ = json.NewEncoder(w).Encode(echo{name, r.Proto, r.Method, r.RequestURI, r.Host, r.Header, r.Trailer, string(body)})
	}))
}

// to is one rule that sends everything to the backend "a".
func to(change ...func(*config.HTTPRule)) []config.HTTPHost {
	rule := config.HTTPRule{Route: "HTTPRoute/test/r", Backends: refs("a", 1)}
	for _, c := range change {
		c(&rule)
	}
	return []config.HTTPHost{{Rules: []config.HTTPRule{rule}}}
}

// refs is backends with their weights: refs("a", 1, "b", 2).
func refs(pairs ...any) []config.HTTPBackendRef {
	var out []config.HTTPBackendRef
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, config.HTTPBackendRef{BackendRef: config.BackendRef{Backend: pairs[i].(string), Weight: pairs[i+1].(int)}})
	}
	return out
}

// each runs a test over HTTP/1.1 without TLS and over HTTP/2.
func each(t *testing.T, g *gateway, test func(t *testing.T, c *http.Client, url string)) {
	t.Run("HTTP/1.1", func(t *testing.T) { test(t, g.plain.Client(), g.plain.URL) })
	t.Run("HTTP/2", func(t *testing.T) { test(t, g.tls.Client(), g.tls.URL) })
}

// request sends one and returns the response with its body read.
func request(t *testing.T, c *http.Client, method, url, host string, header http.Header, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	if header != nil {
		req.Header = header
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read body: %v", err)
	}
	return res, got
}

// seen is the request as the backend saw it.
func seen(t *testing.T, body []byte) echo {
	t.Helper()
	var e echo
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatalf("not an echo: %v: %s", err, body)
	}
	return e
}
