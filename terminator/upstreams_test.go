// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// TestRequestsLeaveDescriptorsToOthers: a client of HTTP/2 may have hundreds of
// requests on one connection, and each has a connection to its backend.
func TestRequestsLeaveDescriptorsToOthers(t *testing.T) {
	plain, secure, port := freePort(t), freePort(t), freePort(t)
	answer := make(chan struct{})
	var waiting atomic.Int64
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			waiting.Add(1)
			<-answer
		}
	}))
	defer slow.Close()
	answerAll := sync.OnceFunc(func() { close(answer) })
	defer answerAll()
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	snap.Listeners[0].Protocol, snap.Listeners[0].TLS = config.TCP, nil
	snap.Listeners = append(snap.Listeners, config.Listener{Name: "web", Hostname: "a.example", Addresses: loopback, Port: secure, Protocol: config.HTTPS,
		HTTP: []config.HTTPHost{host("a.example", "slow")}, TLS: &config.ListenerTLS{Certificates: []string{"c"}}})
	snap.Backends = append(snap.Backends, config.Backend{Name: "slow", Endpoints: []config.Endpoint{endpoint(slow.Listener.Addr())}})
	snap.Sort()
	child(t, snap, startNofileEnv+"=300")

	const clients, each = 3, 200 // twice the descriptors
	var wg sync.WaitGroup
	var refused, served atomic.Int64
	for range clients {
		c := browser(t, plain, secure, true)
		c.Timeout = 0
		get(t, c, "https://a.example/") // on the connection that the others have
		for range each {
			wg.Go(func() {
				resp, err := c.Get("https://a.example/wait")
				switch {
				case err != nil:
					t.Error(err)
					refused.Add(1)
					return
				case resp.StatusCode == http.StatusOK:
					served.Add(1)
				case resp.StatusCode != http.StatusServiceUnavailable:
					t.Errorf("status %d", resp.StatusCode)
					fallthrough
				default:
					refused.Add(1)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			})
		}
	}
	eventually(t, "all wait for an answer or have one", func() bool { return waiting.Load()+refused.Load() == clients*each })
	conn, err := net.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Errorf("another listener does not serve: %v", err)
	}
	answerAll()
	wg.Wait()
	if served.Load() == 0 {
		t.Error("no request was served")
	}
	// The room is there again.
	c := browser(t, plain, secure, true)
	for range 2 * clients * each {
		resp, err := c.Get("https://a.example/")
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%+v, %v", resp, err)
		}
		resp.Body.Close()
	}
}
