// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// connector makes one connection after the other: connect, handshake, one byte
// to the backend and back, close. The byte proves that the backend was reached,
// and brings the session ticket.
type connector struct {
	dialer  *dialer
	resumes bool                    // the next one takes up a session
	latency *hdrhistogram.Histogram // from connect to the byte, ns
}

// newConnector takes up sessions of its own only.
func newConnector(d *dialer) *connector {
	own := &dialer{target: d.target, net: d.net}
	own.turn.Store(rand.Uint64N(uint64(len(d.target.ServerNames))))
	if d.config != nil {
		own.config = d.config.Clone()
		if own.config.ClientSessionCache != nil {
			own.config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		}
	}
	return &connector{dialer: own, latency: newHistogram()}
}

func (c *connector) connect(count int64) error {
	for i := range count {
		start := time.Now()
		if err := c.once(); err != nil {
			return fmt.Errorf("connection %d of %d: %w", i, count, err)
		}
		if err := c.latency.RecordValue(int64(time.Since(start))); err != nil {
			return err
		}
	}
	return nil
}

func (c *connector) once() (err error) {
	conn, resumed, err := c.dialer.dial()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if resumed != c.resumes {
		return fmt.Errorf("session resumed: %v, want %v", resumed, c.resumes)
	}
	c.resumes = c.dialer.config != nil && c.dialer.config.ClientSessionCache != nil
	key := rand.Uint64()
	want := make([]byte, 1)
	_, _ = keyed.New(key).Read(want)
	o := order{Work: Work{Op: Echo, Size: 1, Count: 1}, Key: key}
	if err := conn.SetDeadline(time.Now().Add(loadTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(append(o.encode(), want...)); err != nil {
		return err
	}
	got := make([]byte, 1)
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if got[0] != want[0] {
		return fmt.Errorf("the byte came back as %#02x, want %#02x", got[0], want[0])
	}
	return nil
}
