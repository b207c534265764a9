// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// echoServer is a backend at an address, until its input ends. It shares the port
// with others of its kind.
func echoServer(address string) error {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		return errors.Join(err, set)
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				echo(c.(*net.TCPConn))
			}()
		}
	}()
	fmt.Println("listens")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A backend is killed and started again at its port, or replaced by another one
// that listens there already, under connections that talk all the time. Each of
// them gets its own bytes until it ends, and those to the new one are spliced.
// SLUICE_LONG=1 for 100 restarts each.
func TestBackendIsRestartedAtItsPort(t *testing.T) {
	s := splicer(t)
	for _, overlap := range []bool{false, true} {
		t.Run(map[bool]string{false: "killed and started", true: "replaced"}[overlap], func(t *testing.T) {
			restarts, workers := long(3, 100), 8
			count := &figures.Figures{Faults: int64(restarts), What: "the backend is restarted"}
			figures.Record(t, count)
			port, release, err := freeport.Take()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(release)
			addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
			know(t, s, addr, Auto)
			serve := func() *child {
				c := start(t, "echo-server", addr.String())
				c.expect("listens")
				return c
			}
			backend := serve()
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			var cut atomic.Int64
			for i := range workers {
				wg.Go(func() {
					for key := uint64(i); ctx.Err() == nil; key += uint64(workers) {
						n, err := converse(s, addr, key)
						atomic.AddInt64(&count.Connections, 1)
						atomic.AddInt64(&count.Bytes, n)
						var wrong *wrongByte
						switch {
						case err == nil:
						case errors.As(err, &wrong), errors.Is(err, os.ErrDeadlineExceeded):
							atomic.AddInt64(&count.Failures, 1)
							t.Errorf("connection %d: %v", key, err)
						case n == 0: // refused, or not accepted
							time.Sleep(time.Millisecond)
						default:
							cut.Add(1)
						}
					}
				})
			}
			for range restarts {
				before := outcome(t, s, "spliced")
				if overlap {
					next := serve()
					backend.kill()
					backend = next
				} else {
					backend.kill()
					backend = serve()
				}
				eventually(t, "new connections are spliced", func() bool { return outcome(t, s, "spliced") >= before+10 })
			}
			stop()
			wg.Wait()
			count.What = fmt.Sprintf("the backend is restarted, %d connections cut", cut.Load())
			t.Logf("%d connections, %d bytes, %d of them cut", count.Connections, count.Bytes, cut.Load())
		})
	}
}

// wrongByte is a byte that is not what it must be.
type wrongByte struct{ error }

// converse has bytes sent back by an echo server and returns how many were right.
func converse(s *Splicer, addr netip.AddrPort, key uint64) (int64, error) {
	c, err := s.dial(context.Background(), nil, "tcp", addr.String())
	if err != nil {
		return 0, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return 0, err
	}
	out, in := keyed.New(key), keyed.NewChecker(key)
	for i := range 100 {
		n := int64(1 + (key*31+uint64(i)*977)%20_000)
		sent := make(chan error, 1)
		go func() {
			_, err := io.CopyN(c, out, n)
			sent <- err
		}()
		p := make([]byte, n)
		m, err := io.ReadFull(c, p)
		if _, err := in.Write(p[:m]); err != nil {
			return in.N, &wrongByte{err}
		}
		if err = errors.Join(err, <-sent); err != nil {
			return in.N, err
		}
	}
	return in.N, nil
}
