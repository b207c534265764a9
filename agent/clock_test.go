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

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// maySetClock is set where the whole machine is the test's: in the guest of deploy/kernels.
const maySetClock = "SLUICE_MAY_SET_CLOCK"

// T15: the clock of the machine jumps by a day, two back and one on again. Connections
// with bytes under way go on, nothing takes them for idle, and new ones come.
func TestAClockThatJumpsEndsNothing(t *testing.T) {
	if os.Getenv(maySetClock) == "" {
		t.Skip("it sets the clock of the machine: make test-kernels runs it in a virtual one")
	}
	onAndOff(t, func(t *testing.T, g *gateway) {
		began := time.Now()
		g.client.Time = func() time.Time { return began } // the certificate is for two hours
		accepted, done := make(chan *net.TCPConn), make(chan struct{})
		g.route(g.serve(func(c *net.TCPConn) {
			accepted <- c
			<-done
		}))
		t.Cleanup(func() { close(done) })
		var pairs []*jumped
		for _, by := range []time.Duration{0, 24 * time.Hour, -48 * time.Hour, 24 * time.Hour} {
			for _, p := range pairs {
				p.send(1 << 20)
			}
			now := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
			if err := unix.Settimeofday(&now); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second) // what looks now and then has looked
			for _, p := range pairs {
				if err := p.receive(1 << 20); err != nil {
					t.Errorf("a connection after a jump by %v: %v", by, err)
				}
			}
			client := g.mustDial()
			backend := <-accepted
			warm(t, client, backend)
			pairs = append(pairs, newJumped(client, backend))
		}
	})
}

// jumped is a connection over which the clock jumps, and its two streams.
type jumped struct {
	client  *tls.Conn
	backend *net.TCPConn
	sent    [2]*keyed.Stream
	got     [2]*keyed.Checker
	written chan error
}

func newJumped(client *tls.Conn, backend *net.TCPConn) *jumped {
	return &jumped{client, backend, [2]*keyed.Stream{keyed.New(1), keyed.New(2)},
		[2]*keyed.Checker{keyed.NewChecker(1), keyed.NewChecker(2)}, make(chan error, 2)}
}

// send begins to send n bytes each way.
func (j *jumped) send(n int64) {
	for i, w := range []io.Writer{j.client, j.backend} {
		go func() {
			_, err := io.CopyN(w, j.sent[i], n)
			j.written <- err
		}()
	}
}

// receive checks what send has sent.
func (j *jumped) receive(n int64) error {
	_, up := io.CopyN(j.got[0], j.backend, n)
	_, down := io.CopyN(j.got[1], j.client, n)
	return errors.Join(up, down, <-j.written, <-j.written)
}
