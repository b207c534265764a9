// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/netns"
)

// apiPath is the way from a node to the API server, which can be cut: then
// nothing comes through, and nobody says so.
type apiPath struct {
	address string
	broken  atomic.Bool
}

func newAPIPath(t *testing.T, from *netns.NS, to string) *apiPath {
	t.Helper()
	l, err := from.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &apiPath{address: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	keep := func(c net.Conn) { mu.Lock(); defer mu.Unlock(); open[c] = true }
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close() // the API server is away
				continue
			}
			keep(in)
			keep(out)
			wg.Go(func() { p.pass(in, out) })
			wg.Go(func() { p.pass(out, in) })
		}
	})
	t.Cleanup(func() {
		p.mend()
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return p
}

// pass passes on what comes, and drops it while the path is cut: what TCP would
// send again is lost, so the connection that lost something ends with the cut.
func (p *apiPath) pass(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for lost := false; p.broken.Load() || lost; time.Sleep(5 * time.Millisecond) {
			if lost = true; !p.broken.Load() {
				return
			}
		}
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (p *apiPath) cut()  { p.broken.Store(true) }
func (p *apiPath) mend() { p.broken.Store(false) }
