// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T37: more clients come at once than the accept queue holds, as the gateway is stopped
// for a moment. Each is served in the end: the kernel of most tries again by itself, and
// those for which the gateway was too busy do. 5,000 with SLUICE_LONG set.
func TestABurstIsServedInTheEnd(t *testing.T) {
	const queue = 128
	clients := 2 * queue
	if full {
		clients = 5000
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			needRoot(t)
			count := &figures.Figures{Connections: int64(clients), Bytes: int64(clients) * exchangeSize}
			figures.Record(t, count)
			metrics := "127.0.0.1:" + freePort(t)
			g := launch(t, serveTCP(t, echo), nil, "-splice", splice, "-metrics", metrics)
			g.narrow(queue)
			before, overflows := g.holds(metrics), listenOverflows(t)
			g.signal(syscall.SIGSTOP)
			var took latencies
			var again atomic.Int64
			var wg sync.WaitGroup
			began := time.Now()
			for range clients {
				wg.Go(func() {
					for try := 0; ; try++ {
						c, err := g.echoing()
						if err == nil {
							took.add(time.Since(began))
							err = errors.Join(c.exchange(exchangeSize), c.finish())
						}
						if err == nil {
							return
						}
						// A client of TLS 1.3 is through before the gateway, which may have
						// run out of patience.
						if timeout, ok := errors.AsType[net.Error](err); try == 20 || !errors.Is(err, syscall.ECONNRESET) && (!ok || !timeout.Timeout()) {
							t.Errorf("a client of the burst, try %d: %v", try, err)
							return
						}
						again.Add(1)
						time.Sleep(100 * time.Millisecond)
					}
				})
			}
			eventually(t, "the accept queue is full", func() bool { return listenOverflows(t) > overflows })
			time.Sleep(500 * time.Millisecond) // the others come
			g.signal(syscall.SIGCONT)
			wg.Wait()
			count.Faults = listenOverflows(t) - overflows
			count.What = fmt.Sprintf("times an accept queue of %d was full; %d clients tried again; until one was served %v; before %v, after %v",
				queue, again.Load(), &took, before, g.settles(metrics, before))
			t.Log(count.Faults, count.What)
		})
	}
}

// narrow has the accept queues of the gateway hold no more connections than that, by
// another listen(2) for its sockets.
func (g *gateway) narrow(queue int) {
	g.t.Helper()
	pid := g.cmd.Process.Pid
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	defer unix.Close(process)
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		g.t.Fatal(err)
	}
	narrowed := 0
	for _, entry := range open {
		number, err := strconv.Atoi(entry.Name())
		if err != nil {
			g.t.Fatal(err)
		}
		fd, err := unix.PidfdGetfd(process, number, 0)
		if err != nil {
			continue // closed by now
		}
		listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if at, _ := unix.Getsockname(fd); err == nil && listens == 1 {
			if at, ok := at.(*unix.SockaddrInet4); ok && strconv.Itoa(at.Port) == g.port {
				err = unix.Listen(fd, queue)
				narrowed++
			}
		}
		if cerr := unix.Close(fd); cerr != nil || err != nil && !errors.Is(err, unix.ENOTSOCK) {
			g.t.Fatal(errors.Join(err, cerr))
		}
	}
	if narrowed == 0 {
		g.t.Fatalf("the gateway does not listen at port %s", g.port)
	}
}

// listenOverflows is how often an accept queue of this network namespace was full.
func listenOverflows(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); fields[0] == "TcpExt:" && names == nil {
			names = fields
		} else if fields[0] == "TcpExt:" {
			for i, name := range names {
				if name == "ListenOverflows" {
					if _, err := fmt.Sscan(fields[i], &n); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	return n
}

// T43: clients connect, exchange a little and leave, again and again. Not one fails, and
// the gateway holds afterwards what it held before. 100,000 with SLUICE_LONG set.
func TestChurnLeavesNothing(t *testing.T) {
	connections, workers := int64(1000), 8
	if full {
		connections, workers = 100_000, 16
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			if splice == "auto" {
				needRoot(t)
			}
			count := &figures.Figures{}
			figures.Record(t, count)
			metrics := "127.0.0.1:" + freePort(t)
			g := launch(t, serveTCP(t, echo), nil, "-splice", splice, "-metrics", metrics)
			before := g.holds(metrics)
			sessions := tls.NewLRUClientSessionCache(workers)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var dialed atomic.Int64
			began := time.Now()
			took, wait := g.visitors(ctx, workers, func() (*echoing, error) {
				if dialed.Add(1) >= connections {
					stop()
				}
				c, err := g.connectTo(serverName, sessions)
				if err != nil {
					return nil, err
				}
				return newEchoing(c), nil
			})
			wait()
			rate := float64(took.count()) / time.Since(began).Seconds()
			after := g.settles(metrics, before)
			count.Connections, count.Bytes = took.count(), took.count()*exchangeSize
			count.What = fmt.Sprintf("%.0f connections a second; before %v, after %v", rate, before, after)
			t.Log(count.Connections, count.What)
			if splice == "auto" {
				if n := g.scrape(metrics)[`sluice_splice_outcomes_total{outcome="spliced"}`]; int64(n) < took.count()/2 {
					t.Errorf("%v of %d connections were spliced", n, took.count())
				}
			}
		})
	}
}
