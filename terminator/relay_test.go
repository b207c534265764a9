// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// way is a path of bytes through a server, as a snapshot and a client.
type way struct {
	snap *config.Snapshot
	dial func(t *testing.T) half
	// noRecordLoop and noEventLoop are for the server.
	noRecordLoop, noEventLoop bool
}

func ways(t *testing.T, port uint16, to config.Endpoint) map[string]way {
	cert := certificateFor(t, "a", "a.example")
	plain := func() *config.Snapshot {
		s := simple(port, cert, to)
		s.Listeners[0].TLS, s.Listeners[0].Protocol = nil, config.TCP
		return s
	}
	withVersion := func(v uint16) func(t *testing.T) half {
		return func(t *testing.T) half {
			c := client("a.example")
			c.MaxVersion = v
			return dialTLS(t, port, c)
		}
	}
	tcp := func(t *testing.T) half {
		c, err := net.Dial("tcp", address(port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
	originate := reencrypt(simple(port, cert, secured(t, to, tls.VersionTLS12)))
	originate.Listeners[0].TLS, originate.Listeners[0].Protocol = nil, config.TCP
	return map[string]way{
		"tls to tls":            {reencrypt(simple(port, cert, secured(t, to, tls.VersionTLS13))), withVersion(tls.VersionTLS13), false, false},
		"tcp to tls":            {originate, tcp, false, false},
		"tls 1.2":               {simple(port, cert, to), withVersion(tls.VersionTLS12), false, false},
		"tls 1.3":               {simple(port, cert, to), withVersion(tls.VersionTLS13), false, false},
		"tcp":                   {plain(), tcp, false, false},
		"tcp, no event loop":    {plain(), tcp, false, true},
		"no event loop":         {simple(port, cert, to), withVersion(tls.VersionTLS13), false, true},
		"no record loop":        {simple(port, cert, to), withVersion(tls.VersionTLS13), true, false},
		"no record loop to tls": {reencrypt(simple(port, cert, secured(t, to, tls.VersionTLS13))), withVersion(tls.VersionTLS13), true, false},
	}
}

func TestBytesArriveWholeAndInOrderBothWays(t *testing.T) {
	const size, up, down = 8 << 20, 1, 2
	port := freePort(t)
	received := make(chan struct{}, 1)
	to := backend(t, func(c half) {
		var wg sync.WaitGroup
		defer func() { received <- struct{}{} }()
		wg.Go(func() {
			if err := keyed.Receive(c, up, size); err != nil {
				t.Errorf("backend: %v", err)
			}
		})
		if err := keyed.Send(c, down, size, 100_000); err != nil {
			t.Errorf("backend: %v", err)
		}
		_ = c.CloseWrite()
		wg.Wait()
	})
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			g := run(t, &Server{NoRecordLoop: way.noRecordLoop, NoEventLoop: way.noEventLoop}, way.snap)
			c := way.dial(t)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := keyed.Send(c, up, size, 70_000); err != nil {
					t.Errorf("client: %v", err)
				}
				_ = c.CloseWrite()
			})
			if err := keyed.Receive(c, down, size); err != nil {
				t.Errorf("client: %v", err)
			}
			wg.Wait()
			<-received
			eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
		})
	}
}

func TestSmallMessagesAreNotDelayed(t *testing.T) {
	port := freePort(t)
	to := backend(t, echo)
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			run(t, &Server{NoRecordLoop: way.noRecordLoop, NoEventLoop: way.noEventLoop}, way.snap)
			c := way.dial(t)
			buf := make([]byte, 100)
			for range 1000 {
				if _, err := c.Write(buf); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, buf); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
