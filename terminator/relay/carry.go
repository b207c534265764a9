// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/tls"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/terminator/record"
)

// Side is one end of a connection.
type Side struct {
	// Leg is the socket, or what stands for one.
	Leg Leg
	// TLS or Record, when set, is the established TLS state over Wire, which is
	// over Leg. Record is what took it over from a tls.Conn.
	TLS    *tls.Conn
	Record *record.Conn
	Wire   *Wire
}

// Carry carries bytes between two sides, of which at least one speaks TLS ([TCP]
// is for those where none does). It returns when both directions ended in order
// or when either leg failed; both legs are closed then. Closing them from
// outside (Abort) ends it as well.
func Carry(client, backend Side, p *Progress) (End, error) {
	c := carrier{client: client.Leg, backend: backend.Leg}
	up := flow{from: client.source(&c.clientFIN), to: backend.target(&c.clientFIN), fin: &c.backendFIN,
		count: p.up, fromEnd: clientEnd, toEnd: BackendReset}
	down := flow{from: backend.source(&c.backendFIN), to: client.target(&c.backendFIN), fin: &c.clientFIN,
		count: p.down, fromEnd: backendEnd, toEnd: ClientReset, ended: &c.downEnded}
	var wg sync.WaitGroup
	wg.Go(func() { c.end(up.carry(p)) })
	c.end(down.carry(p))
	wg.Wait()
	return c.finish()
}

// carrier is what the two directions of a connection share.
type carrier struct {
	client, backend Leg
	once            sync.Once
	how             End
	err             error
	// clientFIN and backendFIN are set before the write side of the leg is closed:
	// from then on its socket may be closed in order when it reads EOF. They also
	// tell that the other leg's stream came to its end in order.
	clientFIN, backendFIN atomic.Bool
	// downEnded is set when the backend's end was passed on in order.
	downEnded atomic.Bool
}

// end takes the outcome of one direction. The first failure resets both legs,
// which ends the other direction too.
func (c *carrier) end(how End, err error) {
	if how == Done {
		return
	}
	c.once.Do(func() {
		c.how, c.err = how, err
		Abort(c.backend)
		switch {
		case how == ClientTLS:
			dismiss(c.client)
		case how == BackendReset && c.downEnded.Load():
			settle(c.client)
		}
		Abort(c.client)
	})
}

func (c *carrier) finish() (End, error) {
	c.once.Do(func() {
		c.how = Done
		Finish(c.backend)
		Finish(c.client)
	})
	return c.how, c.err
}

// settle waits until the client has the whole of a stream that ended in order:
// a reset would take from it what the kernel still holds. Closing the leg from
// outside (Abort) ends it as well.
func settle(client Leg) {
	drain(client, func(i unix.TCPInfo, sc syscall.Conn) bool {
		return i.State == 0 || i.State == unix.BPF_TCP_CLOSE || outQueue(sc) == 0
	})
}

// dismiss gives a client that was sent a fatal alert a moment to read it and to close
// first, as Wire.Refuse does.
func dismiss(client Leg) {
	end := time.Now().Add(time.Second)
	if client.CloseWrite() != nil {
		return
	}
	drain(client, func(i unix.TCPInfo, _ syscall.Conn) bool {
		return i.State != unix.BPF_TCP_FIN_WAIT1 && i.State != unix.BPF_TCP_FIN_WAIT2 || time.Now().After(end)
	})
}

// drain drops what the client sends until enough says so: it has no receiver any
// more, but a client may wait for us before it reads.
func drain(client Leg, enough func(unix.TCPInfo, syscall.Conn) bool) {
	sc, ok := client.(syscall.Conn)
	if !ok {
		return
	}
	var in socket
	in.init(client)
	for pause := time.Millisecond; !enough(tcpInfo(sc), sc); pause = min(2*pause, 100*time.Millisecond) {
		_ = in.raw.Control(func(fd uintptr) {
			for n := 0; n < 16 && in.try(fd) && in.err == nil; n++ {
				in.buf.put()
			}
			in.err = nil
		})
		time.Sleep(pause)
	}
}
