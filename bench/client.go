// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// dialer connects clients of a scenario, all with the same group, version and
// suite, so that no peer's defaults change the work.
type dialer struct {
	target Target
	config *tls.Config // nil for TCP
	net    net.Dialer
	turn   atomic.Uint64 // of the server names
}

func newDialer(to Target, s Scenario) (*dialer, error) {
	d := &dialer{target: to, net: net.Dialer{Timeout: 15 * time.Second}}
	d.net.SetMultipathTCP(false)
	if to.Plain {
		return d, nil
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(to.Root) {
		return nil, errors.New("the authority's certificate is no PEM")
	}
	d.config = &tls.Config{
		RootCAs: roots, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{s.group()},
	}
	if s.Resume {
		d.config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return d, nil
}

// dial connects and completes the handshake. resumed says that it took up an
// earlier session.
func (d *dialer) dial() (conn net.Conn, resumed bool, err error) {
	conn, err = d.net.Dial("tcp", d.target.Address.String())
	if err != nil || d.config == nil {
		return conn, false, err
	}
	config := d.config.Clone()
	config.ServerName = d.target.ServerNames[int(d.turn.Add(1)-1)%len(d.target.ServerNames)]
	c := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(context.Background(), d.net.Timeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, false, errors.Join(err, conn.Close())
	}
	if s, want := c.ConnectionState(), config.CurvePreferences[0]; s.CipherSuite != tls.TLS_AES_128_GCM_SHA256 || s.CurveID != want {
		return nil, false, errors.Join(conn.Close(), fmt.Errorf("negotiated %s with %v, want TLS_AES_128_GCM_SHA256 with %v: peers are not comparable",
			tls.CipherSuiteName(s.CipherSuite), s.CurveID, want))
	}
	return c, c.ConnectionState().DidResume, nil
}

// refused tells whether a handshake ended with the peer's alert that it has no
// parameters in common (RFC 8446, section 6.2: handshake_failure).
func refused(err error) bool {
	return err != nil && strings.Contains(err.Error(), "remote error: tls: handshake failure") // crypto/tls has no type for it
}

// client is a connection that does work.
type client struct {
	conn    net.Conn
	key     uint64
	pattern pattern // made when it is needed
	buf     []byte
	latency *hdrhistogram.Histogram // of round trips, ns
}

func newClient(d *dialer) (*client, error) {
	conn, _, err := d.dial()
	if err != nil {
		return nil, err
	}
	return &client{conn: conn, key: rand.Uint64()}, nil
}

// wake gives a client what it needs to work, rest takes it away: there may be
// thousands.
func (c *client) wake() {
	if c.pattern == nil {
		c.pattern, c.buf, c.latency = newPattern(c.key), make([]byte, chunk), newHistogram()
	}
}

func (c *client) rest() { c.pattern, c.buf, c.latency = nil, nil, nil }

func (c *client) work(w Work) error {
	c.wake()
	if err := c.order(w); err != nil {
		return err
	}
	switch w.Op {
	case Upload:
		if err := send(c.conn, c.pattern, w.Size); err != nil {
			return err
		}
		_, err := io.ReadFull(c.conn, c.buf[:1])
		if err == nil && c.buf[0] != acknowledged {
			err = fmt.Errorf("acknowledgment is %#02x", c.buf[0])
		}
		return err
	case Download:
		return receive(c.conn, c.pattern, w.Size, c.buf)
	case Echo:
		return c.roundTrips(w)
	}
	return fmt.Errorf("a client cannot do %q", w.Op)
}

// order tells the backend what comes.
func (c *client) order(w Work) error {
	if err := c.conn.SetDeadline(time.Now().Add(loadTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(order{Work: w, Key: c.key}.encode())
	return err
}

func (c *client) roundTrips(w Work) error {
	for i := range w.Count {
		start := time.Now()
		if _, err := c.conn.Write(c.pattern.at(i*w.Size, int(w.Size))); err != nil {
			return err
		}
		if err := c.answer(i, w); err != nil {
			return err
		}
		if err := c.latency.RecordValue(int64(time.Since(start))); err != nil {
			return err
		}
	}
	return nil
}

// answer reads and checks message i of an echo.
func (c *client) answer(i int64, w Work) error {
	if _, err := io.ReadFull(c.conn, c.buf[:w.Size]); err != nil {
		return fmt.Errorf("after %d of %d round trips: %w", i, w.Count, err)
	}
	return c.pattern.check(i*w.Size, c.buf[:w.Size])
}
