// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// Bytes that are sent with MSG_OOB, by the backend or by a client of a TCP
// listener, keep their places in the stream, and none is missing.
func TestUrgentDataKeepsItsPlace(t *testing.T) {
	const size, up, down = 4 << 20, 1, 2
	port := freePort(t)
	received := make(chan error, 1)
	to := backend(t, func(c half) {
		var wg sync.WaitGroup
		wg.Go(func() { received <- keyed.Receive(c, up, size) })
		if err := errors.Join(sendUrgent(c.(*net.TCPConn), down, size), c.CloseWrite()); err != nil {
			t.Errorf("backend: %v", err)
		}
		wg.Wait()
	})
	for name, w := range ways(t, port, to) {
		if strings.HasSuffix(name, "to tls") {
			continue // TLS has no urgent data
		}
		t.Run(name, func(t *testing.T) {
			run(t, w.server(), w.snap)
			c := w.dial(t)
			sent := make(chan error, 1)
			go func() {
				if tcp, ok := c.(*net.TCPConn); ok {
					sent <- errors.Join(sendUrgent(tcp, up, size), tcp.CloseWrite())
				} else {
					sent <- errors.Join(keyed.Send(c, up, size, 100_000), c.CloseWrite())
				}
			}()
			if err := errors.Join(keyed.Receive(c, down, size), <-sent, <-received); err != nil {
				t.Error(err)
			}
		})
	}
}

// sendUrgent sends a stream of which every so many bytes one is urgent.
func sendUrgent(c *net.TCPConn, key uint64, size int64) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	stream := keyed.New(key)
	one := make([]byte, 1)
	for n := int64(150_001); size > 0; size -= n {
		n = min(n, size)
		if _, err := io.CopyN(struct{ io.Writer }{c}, stream, n-1); err != nil {
			return err
		}
		_, _ = stream.Read(one)
		var send error
		err := raw.Write(func(fd uintptr) bool {
			send = unix.Sendto(int(fd), one, unix.MSG_OOB, nil)
			return !errors.Is(send, syscall.EAGAIN)
		})
		if err := errors.Join(err, send); err != nil {
			return err
		}
	}
	return nil
}
