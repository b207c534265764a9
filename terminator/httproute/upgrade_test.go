// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// tunnelBackend agrees to an upgrade and hands the connection over.
func tunnelBackend(t *testing.T, talk func(c *net.TCPConn, br *bufio.Reader)) string {
	return rawBackend(t, func(c *net.TCPConn) {
		br := bufio.NewReader(c)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		if req.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nX-From: backend\r\n\r\n")
		talk(c, br)
	})
}

// tunnelTo upgrades a connection of its own. early is sent along with the
// request.
func tunnelTo(t *testing.T, g *gateway, upgrade, early string) (*net.TCPConn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", g.plain.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+upgrade+"\r\n\r\n"+early)
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn), br, res
}

func TestWebSocketEcho(t *testing.T) {
	a := backend(t, websocket.Handler(func(ws *websocket.Conn) {
		var msg string
		for websocket.Message.Receive(ws, &msg) == nil && websocket.Message.Send(ws, msg) == nil {
		}
	}))
	g := start(t, state{hosts: to(func(r *config.HTTPRule) { r.RequestTimeout = 100 * time.Millisecond }),
		endpoints: map[string]string{"a": a}, protocol: map[string]string{"a": "ws"}})
	ws, err := websocket.Dial(strings.Replace(g.plain.URL, "http", "ws", 1)+"/chat", "", "http://origin.example")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.Close() }()
	var got string
	for _, msg := range []string{"hello", strings.Repeat("long ", 50_000), "after the timeout of the route"} {
		if err := errors.Join(websocket.Message.Send(ws, msg), websocket.Message.Receive(ws, &got)); err != nil || got != msg {
			t.Fatalf("sent %d bytes, got %d, %v", len(msg), len(got), err)
		}
		time.Sleep(80 * time.Millisecond)
	}
}

func TestTunnelCarriesBothDirectionsToTheirEnds(t *testing.T) {
	const size = 2_000_000
	failed := make(chan error, 1)
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": tunnelBackend(t, func(c *net.TCPConn, br *bufio.Reader) {
		failed <- errors.Join(keyed.Receive(br, 1, size), keyed.Send(c, 2, size, 9_000))
	})}})
	// The first bytes come along with the request, before the backend agreed.
	var early strings.Builder
	stream := keyed.New(1)
	_, _ = io.CopyN(&early, stream, 1000)
	c, br, res := tunnelTo(t, g, "websocket", early.String())
	if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("X-From") != "backend" {
		t.Fatalf("response %+v", res)
	}
	if _, err := io.CopyN(c, stream, size-1000); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := keyed.Receive(br, 2, size); err != nil {
		t.Errorf("client: %v", err)
	}
	if err := <-failed; err != nil {
		t.Errorf("backend: %v", err)
	}
}

func TestABrokenTunnelNeverLooksFinished(t *testing.T) {
	t.Run("by the backend", func(t *testing.T) {
		g := start(t, state{hosts: to(), endpoints: map[string]string{"a": tunnelBackend(t, func(c *net.TCPConn, _ *bufio.Reader) {
			_, _ = io.WriteString(c, "hello")
			time.Sleep(50 * time.Millisecond)
			_ = c.SetLinger(0)
		})}})
		_, br, _ := tunnelTo(t, g, "websocket", "")
		if got, err := io.ReadAll(br); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client read %q, then %v, want a reset", got, err)
		}
	})
	t.Run("by the client", func(t *testing.T) {
		ended := make(chan error, 1)
		g := start(t, state{hosts: to(), endpoints: map[string]string{"a": tunnelBackend(t, func(_ *net.TCPConn, br *bufio.Reader) {
			_, err := io.Copy(io.Discard, br)
			ended <- err
		})}})
		c, _, _ := tunnelTo(t, g, "websocket", "")
		_, _ = io.WriteString(c, "hello")
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("backend saw %v, want a reset", err)
		}
	})
}

func TestOnlyWebSocketUpgrades(t *testing.T) {
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": tunnelBackend(t, func(*net.TCPConn, *bufio.Reader) {})}})
	for upgrade, want := range map[string]int{"websocket": 101, "WebSocket": 101, "h2c": 200, "h2c, websocket": 200, "websocket\r\nUpgrade: h2c": 101, "foo": 200} {
		if _, _, res := tunnelTo(t, g, upgrade, ""); res.StatusCode != want {
			t.Errorf("Upgrade: %s: status %d, want %d", upgrade, res.StatusCode, want)
		}
	}
	// RFC 9110 section 7.8: HTTP/1.0 has no upgrades.
	if got := raw(t, g, "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 200 ") {
		t.Errorf("with HTTP/1.0: %q", got)
	}
}

// Nobody asked for an upgrade, and the backend upgrades: what follows would be
// taken for responses of the gateway.
func TestAnUpgradeThatWasNotAskedForIsRefused(t *testing.T) {
	for _, fields := range []string{"Connection: Upgrade\r\nUpgrade: websocket\r\n", "Connection: Upgrade\r\n", "Connection: Upgrade\r\nUpgrade: \r\n", "Upgrade: websocket\r\n", ""} {
		a := rawBackend(t, func(c *net.TCPConn) {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n"+fields+"\r\nHTTP/1.1 200 OK\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		})
		g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
		each(t, g, func(t *testing.T, c *http.Client, url string) {
			if res, _ := request(t, c, "GET", url, "", nil, nil); res.StatusCode != http.StatusBadGateway {
				t.Errorf("%q: status %d", fields, res.StatusCode)
			}
			for end := time.Now().Add(10 * time.Second); g.open.Load() != 0; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%q: %d connections stay open", fields, g.open.Load())
				}
			}
		})
	}
}
