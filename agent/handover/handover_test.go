// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Of(m.Run).Run()) }

// pair is a connected pair of unix streams.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []*net.UnixConn
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		out = append(out, c.(*net.UnixConn))
	}
	return out[0], out[1]
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// More sockets than a message may carry; what waits in the queue of one when
// the giver closes it comes to the taker.
func TestSocketsAndTheirQueuesArePassed(t *testing.T) {
	old, successor := pair(t)
	admin := listen(t, "unix", filepath.Join(t.TempDir(), "admin"))
	sockets := []Socket{{"admin", admin}}
	for range 2*perFrame + 7 {
		sockets = append(sockets, Socket{"listener", listen(t, "tcp", "127.0.0.1:0")})
	}
	last := sockets[len(sockets)-1].Listener
	client, err := net.Dial("tcp", last.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	left := false
	given := make(chan error, 1)
	go func() {
		err := Give(old, sockets, func() {
			left = true
			for _, s := range sockets {
				s.Listener.Close()
			}
		})
		if err == nil {
			n := 2
			Tell(old, func() Rest { n--; return Rest{Connections: n} })
		}
		given <- err
	}()
	offer, err := Receive(successor)
	if err != nil {
		t.Fatal(err)
	}
	defer offer.Close()
	if len(offer.Sockets) != len(sockets) {
		t.Fatalf("%d sockets came of %d", len(offer.Sockets), len(sockets))
	}
	for i, s := range offer.Sockets {
		if s.Use != sockets[i].Use || s.Listener.Addr().String() != sockets[i].Listener.Addr().String() {
			t.Errorf("socket %d is %s %s, want %s %s", i, s.Use, s.Listener.Addr(), sockets[i].Use, sockets[i].Listener.Addr())
		}
	}
	if left {
		t.Error("left before the successor served")
	}
	if err := offer.Serving(); err != nil {
		t.Fatal(err)
	}
	if a := offer.Take("admin"); a == nil || offer.Take("admin") != nil {
		t.Error("the admin socket is not there once")
	} else {
		a.Close()
	}
	l := offer.Sockets[len(offer.Sockets)-1].Listener
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("the connection that waited in the queue: %v", err)
	}
	c.Close()
	var rest []Rest
	offer.Rest(func(r Rest) { rest = append(rest, r) })
	if got := fmt.Sprint(rest); got != fmt.Sprint([]Rest{{Connections: 1}, {}, {}}) {
		t.Errorf("rest %s", got)
	}
	if err := <-given; err != nil {
		t.Error(err)
	}
}

func TestASuccessorThatDiesChangesNothing(t *testing.T) {
	old, successor := pair(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	given := make(chan error, 1)
	go func() { given <- Give(old, []Socket{{"listener", l}}, func() { t.Error("left") }) }()
	offer, err := Receive(successor)
	if err != nil {
		t.Fatal(err)
	}
	offer.Close()
	if err := <-given; err == nil {
		t.Error("no error")
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("it does not listen any more: %v", err)
	}
	c.Close()
	if c, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	c.Close()
}
