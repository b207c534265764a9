// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/rest"
)

// wire is a line to the API server that packets get lost on: the connections
// that were there never hear anything again, as if the kernel waited for ever
// before it sent once more.
type wire struct {
	mu    sync.Mutex
	dead  chan struct{} // closed when new connections can be made again; nil while they can
	conns []*wireConn
}

func (w *wire) attach(config *rest.Config) *rest.Config {
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		w.mu.Lock()
		dead := w.dead
		w.mu.Unlock()
		if dead != nil {
			select {
			case <-dead:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.conns = append(w.conns, &wireConn{Conn: c, closed: make(chan struct{})})
		return w.conns[len(w.conns)-1], nil
	}
	return config
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead = make(chan struct{})
	for _, c := range w.conns {
		c.dead.Store(true)
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.dead)
	w.dead = nil
}

type wireConn struct {
	net.Conn
	dead   atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.dead.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *wireConn) Write(b []byte) (int, error) {
	if c.dead.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *wireConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A node that was cut off does not wait for connections that are dead.
func TestANodeThatIsBackDialsAnew(t *testing.T) {
	t.Setenv("HTTP2_READ_IDLE_TIMEOUT_SECONDS", "0") // else client-go finds out by itself, after 45 seconds
	for name, told := range map[string]bool{"its link tells": true, "nobody tells": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.endpoints("10.0.0.1")
			w.publish("shop/gw", withPool(w.part("shop/gw", 6379)))
			a, b := held{}, held{back: make(chan struct{}, 1)}
			var line wire
			w.startNode("n1", "a", api.Config(), &a)
			w.startNode("n2", "b", line.attach(api.Config()), &b)
			w.until("both to share the addresses", func() bool { return together(&a, &b) && len(a.now()) > 0 && len(b.now()) > 0 })
			share := b.now()
			line.cut()
			w.until("the other to take over", func() bool { return together(&a) })
			line.mend()
			if told {
				b.back <- struct{}{}
			}
			w.until("the node to be back and to have its share", func() bool { return together(&a, &b) && slices.Equal(b.now(), share) })
			w.until("it to say where its addresses are", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.announced > 0 })
			if told {
				w.endpoints("10.0.0.2")
				w.until("what changed since", func() bool { return w.served.endpoints() == "10.0.0.2" })
			}
		})
	}
}
