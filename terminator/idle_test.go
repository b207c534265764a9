// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSilentPeersAreProbed looks at the socket options of a connection that
// lives on.
func TestSilentPeersAreProbed(t *testing.T) {
	port := freePort(t)
	to := backend(t, echo)
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			s := way.server()
			s.HalfCloseTimeout, s.KeepAlive = 8*time.Second, 7*time.Second
			g := run(t, s, way.snap)
			c := way.dial(t)
			roundTrip(t, c)
			probed := func(leg any) bool {
				if tls, ok := leg.(*tlsLeg); ok {
					leg = tls.TCPConn
				}
				raw, err := leg.(*net.TCPConn).SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				var on, idle int
				_ = raw.Control(func(fd uintptr) {
					on, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
					idle, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
				})
				return on == 1 && 5 <= idle && idle <= 10
			}
			eventually(t, "keepalive on both legs", func() bool {
				c := g.s.conns.all()[0]
				c.mu.Lock()
				client, backend := c.client, c.backend
				c.mu.Unlock()
				return probed(client) && probed(backend)
			})
		})
	}
}

// TestEveryLegHasItsOwnRhythm of probes, in the kernel's seconds: see keepAlive.
func TestEveryLegHasItsOwnRhythm(t *testing.T) {
	s := &Server{KeepAlive: time.Minute}
	rhythms := map[time.Duration]int{}
	for range 10_000 {
		k := s.keepAlive()
		if k.Idle < 40*time.Second || k.Idle > 80*time.Second {
			t.Fatalf("idle %v", k.Idle)
		}
		rhythms[k.Idle.Truncate(time.Second)]++
	}
	if len(rhythms) < 40 {
		t.Errorf("%d rhythms, want 40: %v", len(rhythms), rhythms)
	}
}
