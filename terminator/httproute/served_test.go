// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-gateway/sluice/agent/config"
)

func TestDoneTellsWhatBecameOfEachRequest(t *testing.T) {
	long := "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + strings.Repeat("x", 1000)
	endpoints := map[string]string{
		"whole":  talker(t, "HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello", false),
		"broken": talker(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", true),
		"tunnel": tunnelBackend(t, func(c *net.TCPConn, br *bufio.Reader) {
			_, _ = io.Copy(c, br)
			_ = c.CloseWrite()
		}),
		"stalls": rawBackend(t, func(c *net.TCPConn) {
			br := bufio.NewReader(c)
			if _, err := http.ReadRequest(br); err == nil {
				_, _ = io.WriteString(c, long)
				_, _ = io.Copy(io.Discard, br)
			}
		}),
	}
	rule := func(path string, change func(*config.HTTPRule)) config.HTTPRule {
		r := config.HTTPRule{Route: "HTTPRoute/of" + path, Match: config.HTTPMatch{Path: path}, Backends: refs(path[1:], 1)}
		if change != nil {
			change(&r)
		}
		return r
	}
	g := start(t, state{endpoints: endpoints, hosts: []config.HTTPHost{{Rules: []config.HTTPRule{
		rule("/whole", nil), rule("/broken", nil), rule("/none", nil), rule("/stalls", nil),
		rule("/late", func(r *config.HTTPRule) { r.Backends, r.RequestTimeout = refs("stalls", 1), 100*time.Millisecond }),
		rule("/away", func(r *config.HTTPRule) { r.Redirect = &config.HTTPRedirect{Code: 302, Hostname: "b.example"} }),
		rule("/invalid", func(r *config.HTTPRule) { r.Invalid = true }),
		{Route: "HTTPRoute/of/tunnel", Match: config.HTTPMatch{Path: "/", PathExact: true}, Backends: refs("tunnel", 1)},
	}}}})
	done := make(chan Served, 1)
	g.Done = func(_ *http.Request, s Served) { done <- s }

	for _, c := range []struct {
		path, body string
		want       Served
	}{
		{"/whole", "four", Served{Route: "HTTPRoute/of/whole", Backend: "whole", Endpoint: endpoints["whole"], Status: 201, Up: 4, Down: 5, Result: Done}},
		{"/broken", "four", Served{Route: "HTTPRoute/of/broken", Backend: "broken", Endpoint: endpoints["broken"], Status: 200, Up: 4, Down: 5, Result: Broken}},
		{"/none", "", Served{Route: "HTTPRoute/of/none", Backend: "none", Status: 503, Down: 20, Result: Done}},
		{"/late", "", Served{Route: "HTTPRoute/of/late", Backend: "stalls", Endpoint: endpoints["stalls"], Status: 200, Down: 1000, Result: Timeout}},
		{"/away", "", Served{Route: "HTTPRoute/of/away", Status: 302, Result: Done}},
		{"/invalid", "", Served{Route: "HTTPRoute/of/invalid", Status: 500, Down: 37, Result: Done}},
		{"/elsewhere", "", Served{Status: 404, Down: 17, Result: Done}},
	} {
		each(t, g, func(t *testing.T, cl *http.Client, url string) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if res, err := cl.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
			compareServed(t, c.path, c.want, <-done)
		})
	}

	each(t, g, func(t *testing.T, cl *http.Client, url string) {
		res, err := cl.Get(url + "/stalls")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close() // does not wait for the end
		compareServed(t, "a client that leaves", Served{Route: "HTTPRoute/of/stalls", Backend: "stalls", Endpoint: endpoints["stalls"],
			Status: 200, Down: 1000, Result: ClientGone}, <-done)
	})

	c, br, res := tunnelTo(t, g, "websocket", "early")
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res.Status)
	}
	_, _ = io.WriteString(c, "later")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(br); err != nil || string(got) != "earlylater" {
		t.Errorf("tunnel: %q, %v", got, err)
	}
	compareServed(t, "tunnel", Served{Route: "HTTPRoute/of/tunnel", Backend: "tunnel", Endpoint: endpoints["tunnel"],
		Status: 101, Up: 10, Down: 10, Result: Done}, <-done)
}

// compareServed compares all but the times and the number of a request.
func compareServed(t *testing.T, what string, want, got Served) {
	t.Helper()
	if got.Start.IsZero() || (got.RequestID != "") != (got.Endpoint != "" || got.Backend == "none") {
		t.Errorf("%s: start %v, request ID %q", what, got.Start, got.RequestID)
	}
	if answered := got.Endpoint != "" && got.Status < 500; (got.FirstByte > 0) != answered {
		t.Errorf("%s: the first byte came after %v", what, got.FirstByte)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Served{}, "Start", "RequestID", "FirstByte")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
