// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// T5: backends that read with splice(2), which does not see spliced bytes. Go's
// io.Copy between two TCP connections does that, so do HAProxy and others.
func TestBackendsThatReadBySplice(t *testing.T) {
	const message, total = 10, 8 << 20
	cases := []struct {
		name string
		// ordinary is how many messages the backend answers by read and write
		// before it splices the rest.
		ordinary int
		// pause is how long spliced bytes may gather before that.
		pause time.Duration
		// mayReset says that a reset is a right end, too: the backend turned to
		// splice(2) when bytes were there that it will never see. What it has read
		// until then must be in order.
		mayReset bool
	}{
		{"from the first byte on", 0, 0, false},
		{"after a header", 1, 0, false},
		{"after a long conversation", 20, 0, true},
		{"after a long conversation and a pause", 20, 300 * time.Millisecond, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			onAndOff(t, func(t *testing.T, g *gateway) {
				sink, received := splicesInto(t)
				g.route(g.serve(func(conn *net.TCPConn) {
					buf := make([]byte, message)
					for range c.ordinary {
						if _, err := io.ReadFull(conn, buf); err != nil {
							return
						}
						if _, err := conn.Write(buf); err != nil {
							return
						}
					}
					time.Sleep(c.pause)
					out, err := net.Dial("tcp", sink)
					if err != nil {
						t.Error(err)
						return
					}
					defer out.Close()
					if _, err := io.Copy(out, conn); err != nil { // splice(2)
						_ = out.(*net.TCPConn).SetLinger(0)
					}
				}))
				// The endpoint is remembered: the second connection must do at
				// least as well, and never end in a reset.
				for attempt := range 2 {
					err := converse(g, c.ordinary, message, total)
					got := <-received
					whole := err == nil && got == nil
					reset := err != nil && errors.Is(got, syscall.ECONNRESET)
					switch {
					case whole, reset && c.mayReset && g.spliced && attempt == 0:
						t.Logf("attempt %d: client: %v; behind the backend: %v", attempt, err, got)
					default:
						t.Errorf("attempt %d: client: %v; behind the backend: %v", attempt, err, got)
					}
				}
			})
		})
	}
}

// converse exchanges messages and then sends a stream.
func converse(g *gateway, messages, size int, total int64) error {
	c, err := g.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	buf := make([]byte, size)
	for i := range messages {
		if _, err := c.Write(buf); err != nil {
			return fmt.Errorf("message %d: %w", i, err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
	}
	if err := keyed.Send(c, 5, total, 16<<10); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if n, err := io.Copy(io.Discard, c); n > 0 || err != nil {
		return fmt.Errorf("read %d bytes: %w", n, err)
	}
	return nil
}

// splicesInto is a server behind the backend, which tells for each connection
// whether it got the whole stream.
func splicesInto(t *testing.T) (address string, received chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	received = make(chan error)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
			err = keyed.Receive(c, 5, 8<<20)
			c.Close()
			received <- err
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), received
}
