// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T34: clients that connect and say nothing, and others that send a byte of their
// ClientHello a second. Meanwhile everybody else is served. The handshake deadline, or
// the descriptor limit before it, ends them, and nothing is left. 10,000 and 1,000 of
// them with SLUICE_LONG set, which waits for the deadline, too.
func TestClientsThatNeverFinishAHandshakeKeepNobodyOut(t *testing.T) {
	silent, trickling := 300, 30
	if full {
		silent, trickling = 10_000, 1000
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			if splice == "auto" {
				needRoot(t)
			}
			count := &figures.Figures{Faults: int64(silent + trickling)}
			figures.Record(t, count)
			metrics := "127.0.0.1:" + freePort(t)
			g := launch(t, serveTCP(t, echo), nil, "-splice", splice, "-metrics", metrics)
			before := g.holds(metrics)
			h := g.hostiles(silent*9/10, 0)
			there := g.holds(metrics)
			each := float64(there.rss-before.rss) / float64(max(h.open.Load(), 1))

			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			took, wait := g.visitors(ctx, 4, g.echoing)
			more := g.hostiles(silent-silent*9/10, trickling)
			eventually(t, "visitors beside them", func() bool { return took.count() > 100 })
			if !full {
				h.close()
				more.close()
			}
			h.over.Wait()
			more.over.Wait()
			then := took.count()
			eventually(t, "visitors after them", func() bool { return took.count() > then+100 })
			stop()
			wait()
			after := g.settles(metrics, before)
			count.Connections, count.Bytes = took.count(), took.count()*exchangeSize
			count.What = fmt.Sprintf("%d silent handshakes, %.1f KiB of memory each, and %d trickling; the silent ones ended after %v, the others after %v; visitors' handshakes %v; before %v, after %v",
				silent, each/1024, trickling, &h.ended, &more.ended, took, before, after)
			t.Log(count.What)
		})
	}
}

// hostiles are connections that do not want to be served.
type hostiles struct {
	open  atomic.Int64
	ended latencies      // how long each was there
	over  sync.WaitGroup // until each has ended
	close func()
}

// hostiles connects them, from many addresses.
func (g *gateway) hostiles(silent, trickling int) *hostiles {
	g.t.Helper()
	hello := clientHello(g.t, serverName)
	h := &hostiles{}
	var all []net.Conn
	h.close = sync.OnceFunc(func() {
		for _, c := range all {
			c.Close()
		}
	})
	g.t.Cleanup(h.close)
	for i := range silent + trickling {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(i), byte(i>>8))}, Timeout: 30 * time.Second}
		c, err := d.Dial("tcp", "127.0.0.1:"+g.port)
		if err != nil {
			g.t.Fatalf("hostile connection %d: %v", i, err)
		}
		all = append(all, c)
		h.open.Add(1)
		began := time.Now()
		h.over.Go(func() {
			defer h.open.Add(-1)
			defer func() { h.ended.add(time.Since(began)) }()
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
			if i >= silent {
				for _, b := range hello {
					if _, err := c.Write([]byte{b}); err != nil {
						return
					}
					_ = c.SetReadDeadline(time.Now().Add(time.Second))
					if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
						return
					}
				}
			}
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				g.t.Error("a connection without a handshake lives on")
			}
		})
	}
	return h
}

// clientHello is what a client sends first.
func clientHello(t *testing.T, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		defer a.Close()
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	record := make([]byte, 5)
	if _, err := io.ReadFull(b, record); err != nil {
		t.Fatal(err)
	}
	record = append(record, make([]byte, int(record[3])<<8|int(record[4]))...)
	if _, err := io.ReadFull(b, record[5:]); err != nil {
		t.Fatal(err)
	}
	return record
}
