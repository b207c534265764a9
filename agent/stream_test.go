// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// plan is what the two ends of a connection do. Both work it out from the
// connection's number.
type plan struct {
	up, down           int64 // bytes
	upChunk, downChunk int
	// first is who sends everything and ends before the other one starts.
	first string
}

func planFor(id uint64) plan {
	r := rand.New(rand.NewPCG(id, 42))
	size := func() int64 { // 0 to 1 MiB, as many small ones as large ones
		if r.IntN(16) == 0 {
			return 0
		}
		return int64(math.Exp2(20 * r.Float64()))
	}
	chunk := func() int { return 1 << (4 + r.IntN(13)) }
	p := plan{up: size(), down: size(), upChunk: chunk(), downChunk: chunk(), first: []string{"", "", "client", "backend"}[r.IntN(4)]}
	// Bounds the writes of a connection, not what is written.
	p.upChunk, p.downChunk = max(p.upChunk, int(p.up/2000)), max(p.downChunk, int(p.down/2000))
	return p
}

type half interface {
	io.ReadWriter
	CloseWrite() error
}

// carry does one end's part of a plan and checks every byte.
func carry(c half, sendKey uint64, send int64, chunk int, receiveKey uint64, receive int64, order string) error {
	sending := func() error {
		if err := keyed.Send(c, sendKey, send, chunk); err != nil {
			return fmt.Errorf("send %d bytes: %w", send, err)
		}
		return c.CloseWrite()
	}
	receiving := func() error { return keyed.Receive(c, receiveKey, receive) }
	switch order {
	case "send":
		if err := sending(); err != nil {
			return err
		}
		return receiving()
	case "receive":
		if err := receiving(); err != nil {
			return err
		}
		return sending()
	}
	sent := make(chan error, 1)
	go func() { sent <- sending() }()
	err := receiving()
	return errors.Join(err, <-sent)
}

// T1: connections of random sizes, both ways, that half-close in any order. Not
// a byte is lost, crossed or out of order, and none ends but as its ends want.
// 10,000 connections with SLUICE_LONG set, 200 with -short, else 2,000.
func TestEveryByteArrivesInOrderAndAtItsOwnConnection(t *testing.T) {
	connections := uint64(2000)
	switch {
	case testing.Short():
		connections = 200
	case full:
		connections = 10_000
	}
	onAndOff(t, func(t *testing.T, g *gateway) {
		count := &figures.Figures{Connections: int64(connections)}
		figures.Record(t, count)
		failures := make(chan error, 2*connections)
		g.route(g.serve(func(c *net.TCPConn) {
			var number [8]byte
			if _, err := io.ReadFull(c, number[:]); err != nil {
				failures <- fmt.Errorf("backend: read number: %w", err)
				return
			}
			id := binary.LittleEndian.Uint64(number[:])
			p := planFor(id)
			atomic.AddInt64(&count.Bytes, p.up+p.down)
			order := map[string]string{"client": "receive", "backend": "send"}[p.first]
			if err := carry(c, 2*id+1, p.down, p.downChunk, 2*id, p.up, order); err != nil {
				failures <- fmt.Errorf("backend: connection %d %+v: %w", id, p, err)
			}
		}))
		var next atomic.Uint64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for id := next.Add(1); id <= connections; id = next.Add(1) {
					if err := clientSide(g, id); err != nil {
						failures <- fmt.Errorf("client: connection %d %+v: %w", id, planFor(id), err)
					}
				}
			})
		}
		wg.Wait()
		g.stop()
		close(failures)
		shown := 0
		for err := range failures {
			if shown++; shown <= 10 {
				t.Error(err)
			}
		}
		if shown > 0 {
			count.Failures = int64(shown)
			t.Errorf("%d failures on %d connections", shown, connections)
		}
		paths := map[string]int{}
		for line := range strings.Lines(g.log.String()) {
			if strings.Contains(line, `"msg":"connection"`) && !strings.Contains(line, `"result":"done"`) {
				t.Log(line)
			}
			for _, p := range []string{`"path":"spliced"`, `"path":"relay"`} {
				if strings.Contains(line, p) {
					paths[p]++
				}
			}
		}
		t.Logf("%d connections: %v", connections, paths)
		if g.spliced && paths[`"path":"spliced"`] == 0 {
			t.Error("no connection was spliced")
		}
	})
}

func clientSide(g *gateway, id uint64) error {
	c, err := g.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(binary.LittleEndian.AppendUint64(nil, id)); err != nil {
		return err
	}
	p := planFor(id)
	order := map[string]string{"client": "send", "backend": "receive"}[p.first]
	return carry(c, 2*id, p.up, p.upChunk, 2*id+1, p.down, order)
}

// T4: a reader stops in the middle of a long stream. The sender is held up,
// with a bounded number of bytes in between, and none of them is lost. 1 GiB
// with SLUICE_LONG set, 64 MiB with -short, else 128.
func TestAStalledReaderHoldsUpTheSender(t *testing.T) {
	total := int64(128 << 20)
	switch {
	case testing.Short():
		total = 64 << 20
	case full:
		total = 1 << 30
	}
	// What may lie in four sockets of which each has at most the 32 MiB of
	// tcp_rmem or the 4 MiB of tcp_wmem, and 1 MiB redirected.
	bound := min(total*3/4, int64(96<<20))
	for _, way := range []string{"to the backend", "to the client"} {
		t.Run(way, func(t *testing.T) {
			onAndOff(t, func(t *testing.T, g *gateway) {
				figures.Record(t, &figures.Figures{Connections: 1, Bytes: total, Faults: 1, What: "a reader that stalls"})
				backend := make(chan *net.TCPConn)
				done := make(chan struct{})
				g.route(g.serve(func(c *net.TCPConn) {
					backend <- c
					<-done
				}))
				defer close(done)
				client := g.mustDial()
				if err := client.Handshake(); err != nil {
					t.Fatal(err)
				}
				b := <-backend
				var from, to half = client, b
				if way == "to the client" {
					from, to = b, client
				}
				warm(t, client, b)

				var sent atomic.Int64
				result := make(chan error, 1)
				go func() {
					err := keyed.Send(io.MultiWriter(from, counter{&sent}), 7, total, 64<<10)
					result <- errors.Join(err, from.CloseWrite())
				}()
				before := tcpMemory(t)
				for last := int64(-1); last != sent.Load(); time.Sleep(500 * time.Millisecond) {
					last = sent.Load()
				}
				held := sent.Load()
				t.Logf("held up after %.1f MiB, TCP memory of the machine grew by %.1f MiB", float64(held)/(1<<20), float64(tcpMemory(t)-before)/(1<<20))
				if held > bound {
					t.Errorf("%d of %d bytes were taken while nobody read, want at most %d", held, total, bound)
				}
				if err := keyed.Receive(to, 7, total); err != nil {
					t.Error(err)
				}
				if err := <-result; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// warm exchanges small messages, enough for both ways to be spliced.
func warm(t *testing.T, client *tls.Conn, backend *net.TCPConn) {
	t.Helper()
	message := make([]byte, 10)
	for range 20 {
		for _, way := range [][2]io.ReadWriter{{client, backend}, {backend, client}} {
			if _, err := way[0].Write(message); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(way[1], message); err != nil {
				t.Fatal(err)
			}
		}
	}
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// tcpMemory is what TCP holds in this namespace's machine, in bytes.
func tcpMemory(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		t.Fatal(err)
	}
	_, tcp, _ := strings.Cut(string(text), "\nTCP: ")
	var inuse, orphan, tw, alloc, mem int64
	if _, err := fmt.Sscanf(tcp, "inuse %d orphan %d tw %d alloc %d mem %d", &inuse, &orphan, &tw, &alloc, &mem); err != nil {
		t.Fatal(err)
	}
	return mem * int64(os.Getpagesize())
}
