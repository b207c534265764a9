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
	off  off
}

// off is what a server is to do without.
type off byte

const (
	noRecordLoop off = 1 << iota
	noEventLoop
	noGCM
)

func (w way) server() *Server {
	return &Server{NoRecordLoop: w.off&noRecordLoop != 0, NoEventLoop: w.off&noEventLoop != 0, NoGCM: w.off&noGCM != 0}
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
	again := func() *config.Snapshot { return reencrypt(simple(port, cert, secured(t, to, tls.VersionTLS13))) }
	new := withVersion(tls.VersionTLS13)
	return map[string]way{
		"tls to tls":            {again(), new, 0},
		"tcp to tls":            {originate, tcp, 0},
		"tls 1.2":               {simple(port, cert, to), withVersion(tls.VersionTLS12), 0},
		"tls 1.3":               {simple(port, cert, to), new, 0},
		"tcp":                   {plain(), tcp, 0},
		"tcp, no event loop":    {plain(), tcp, noEventLoop},
		"no event loop":         {simple(port, cert, to), new, noEventLoop},
		"no gcm":                {simple(port, cert, to), new, noGCM},
		"no gcm, no event loop": {simple(port, cert, to), new, noGCM | noEventLoop},
		"no record loop":        {simple(port, cert, to), new, noRecordLoop},
		"no record loop to tls": {again(), new, noRecordLoop},
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
			g := run(t, way.server(), way.snap)
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
			run(t, way.server(), way.snap)
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
