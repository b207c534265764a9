// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// How a stream ended, as its reader sees it.
const (
	ended  = "ended"  // as its writer wanted
	broken = "broken" // with an error, whatever came before
	open   = "open"   // not at all
)

func ending(c interface {
	io.Reader
	SetReadDeadline(time.Time) error
}) string {
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	switch _, err := io.Copy(io.Discard, struct{ io.Reader }{c}); {
	case err == nil:
		return ended
	case errors.Is(err, os.ErrDeadlineExceeded):
		return open
	default:
		return broken
	}
}

// pair is a connection through the gateway by its two ends, warmed up.
func (g *gateway) pair(t *testing.T) (client *tls.Conn, backend *net.TCPConn) {
	t.Helper()
	accepted, done := make(chan *net.TCPConn), make(chan struct{})
	g.route(g.serve(func(c *net.TCPConn) {
		accepted <- c
		<-done
	}))
	t.Cleanup(func() { close(done) })
	client = g.mustDial()
	backend = <-accepted
	warm(t, client, backend)
	return client, backend
}

// T39: each way in which one end can stop, and what the other end must see. A
// stream that broke never looks finished.
func TestEachEndSeesHowTheOtherOneStopped(t *testing.T) {
	tcp := func(c *tls.Conn) *net.TCPConn { return c.NetConn().(strict).TCPConn }
	cases := []struct {
		name string
		stop func(client *tls.Conn, backend *net.TCPConn) error
		// What the ends see; "" for the end that stopped.
		client, backend string
	}{
		{"the client ends, the backend answers and ends",
			func(c *tls.Conn, b *net.TCPConn) error {
				return errors.Join(c.CloseWrite(), keyed.Receive(b, 1, 0), keyed.Send(b, 2, 1000, 100), b.CloseWrite())
			}, ended, ended},
		{"the backend ends, the client answers and ends",
			func(c *tls.Conn, b *net.TCPConn) error {
				return errors.Join(b.CloseWrite(), keyed.Receive(c, 1, 0), keyed.Send(c, 2, 1000, 100), c.CloseWrite(), keyed.Receive(b, 2, 1000))
			}, "", ended},
		{"the client ends TCP without close_notify",
			func(c *tls.Conn, _ *net.TCPConn) error { return tcp(c).CloseWrite() }, "", broken},
		{"the client resets",
			func(c *tls.Conn, _ *net.TCPConn) error { return errors.Join(tcp(c).SetLinger(0), tcp(c).Close()) }, "", broken},
		{"the client writes and resets",
			func(c *tls.Conn, _ *net.TCPConn) error {
				return errors.Join(keyed.Send(c, 1, 60_000, 1000), tcp(c).SetLinger(0), tcp(c).Close())
			}, "", broken},
		{"the backend resets",
			func(_ *tls.Conn, b *net.TCPConn) error { return errors.Join(b.SetLinger(0), b.Close()) }, broken, ""},
		{"the backend writes and resets",
			func(_ *tls.Conn, b *net.TCPConn) error {
				return errors.Join(keyed.Send(b, 1, 60_000, 1000), b.SetLinger(0), b.Close())
			}, broken, ""},
		{"the backend closes with bytes unread",
			func(c *tls.Conn, b *net.TCPConn) error {
				err := keyed.Send(c, 1, 60_000, 1000)
				time.Sleep(100 * time.Millisecond) // they arrive
				return errors.Join(err, b.Close())
			}, broken, ""},
		{"the backend closes, and the client goes on writing",
			func(c *tls.Conn, b *net.TCPConn) error {
				err := b.Close()
				for range 100 {
					if _, err := c.Write(make([]byte, 1000)); err != nil {
						break
					}
					time.Sleep(time.Millisecond)
				}
				return err
			}, "", ""},
	}
	onAndOff(t, func(t *testing.T, g *gateway) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				client, backend := g.pair(t)
				if err := c.stop(client, backend); err != nil {
					t.Fatal(err)
				}
				if c.backend != "" {
					if got := ending(backend); got != c.backend {
						t.Errorf("to the backend the stream %s, want %s", got, c.backend)
					}
				}
				if c.client != "" {
					if got := ending(client); got != c.client {
						t.Errorf("to the client the stream %s, want %s", got, c.client)
					}
				}
			})
		}
	})
}

// T6: the route goes away while bytes lie unread on both sides. Connections
// that exist go on, and not a byte of them is lost.
func TestADeletedRouteLosesNoUnreadByte(t *testing.T) {
	const unread = 60_000
	onAndOff(t, func(t *testing.T, g *gateway) {
		client, backend := g.pair(t)
		for _, c := range []io.Writer{client, backend} {
			if err := keyed.Send(c, 1, unread, 1000); err != nil {
				t.Fatal(err)
			}
		}
		g.unroute()
		if c, err := g.dial(); err == nil {
			if got := ending(c); got != broken {
				t.Errorf("a new connection without a route %s", got)
			}
			c.Close()
		}
		if err := errors.Join(keyed.Send(client, 2, unread, 1000), client.CloseWrite(), keyed.Send(backend, 2, unread, 1000), backend.CloseWrite()); err != nil {
			t.Fatal(err)
		}
		for end, c := range map[string]io.Reader{"backend": backend, "client": client} {
			if err := receiveBoth(c, unread); err != nil {
				t.Errorf("%s: %v", end, err)
			}
		}
	})
}

// receiveBoth reads the first bytes of key 1 and then, to the end, of key 2.
func receiveBoth(r io.Reader, n int64) error {
	return errors.Join(keyed.Receive(io.LimitReader(r, n), 1, n), keyed.Receive(r, 2, n))
}

// At the drain deadline connections are reset, with what lies unread: neither
// end may take what it has for everything.
func TestTheDrainDeadlineLooksFinishedToNobody(t *testing.T) {
	onAndOff(t, func(t *testing.T, g *gateway) {
		client, backend := g.pair(t)
		for _, c := range []io.Writer{client, backend} {
			if err := keyed.Send(c, 1, 60_000, 1000); err != nil {
				t.Fatal(err)
			}
		}
		g.stop()
		if got := ending(client); got != broken {
			t.Errorf("to the client the stream %s", got)
		}
		if got := ending(backend); got != broken {
			t.Errorf("to the backend the stream %s", got)
		}
	})
}
