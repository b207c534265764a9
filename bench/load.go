// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// loadTimeout is how long the connections of one window may live.
const loadTimeout = 2 * time.Minute

// loadRequest is one step of a window. Prepare connects and does the warm-up,
// measure does the work, finish closes the connections.
type loadRequest struct {
	Step       string
	Address    netip.AddrPort // prepare
	ServerName string         // prepare
	CA         []byte         // prepare: PEM
	Scenario   Scenario       // prepare and measure
}

// loadReply answers each step.
type loadReply struct {
	Error string `json:",omitempty"`
	// Wall is how long the measured work took.
	Wall time.Duration
	// Latency is set on echo scenarios.
	Latency *Latency
}

// Latency is that of round trips of a window, closed loop, in µs.
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// loadMain is the client process: it does the steps that its parent sends
// until its standard input ends.
func loadMain(in *json.Decoder, out *json.Encoder) error {
	var l load
	for {
		var req loadRequest
		if err := in.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		reply, err := l.do(req)
		if err != nil {
			reply.Error = err.Error()
			l.finish()
		}
		if err := out.Encode(reply); err != nil {
			return err
		}
	}
}

// load is the connections of one window.
type load struct{ clients []*client }

type client struct {
	conn    *tls.Conn
	key     uint64
	pattern pattern
	buf     []byte
	latency *hdrhistogram.Histogram // of round trips, ns
}

func (l *load) do(req loadRequest) (reply loadReply, err error) {
	switch req.Step {
	case "prepare":
		if err := l.connect(req); err != nil {
			return reply, err
		}
		return reply, l.all(req.Scenario.Warm)
	case "measure":
		for _, c := range l.clients {
			c.latency.Reset()
		}
		start := time.Now()
		err = l.all(req.Scenario.Measured)
		reply.Wall = time.Since(start)
		if req.Scenario.Measured.Op == Echo {
			reply.Latency = l.latency()
		}
		return reply, err
	case "finish":
		return reply, l.finish()
	}
	return reply, fmt.Errorf("unknown step %q", req.Step)
}

// connect opens the connections one after the other, all with the same group,
// version and suite, so that no peer's defaults change the work.
func (l *load) connect(req loadRequest) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(req.CA)
	config := &tls.Config{
		RootCAs: roots, ServerName: req.ServerName,
		MinVersion:       tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.X25519},
	}
	for range req.Scenario.Connections {
		dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: config}
		dialed, err := dialer.Dial("tcp", req.Address.String())
		if err != nil {
			return err
		}
		conn := dialed.(*tls.Conn)
		key := rand.Uint64()
		l.clients = append(l.clients, &client{
			conn: conn, key: key, pattern: newPattern(key), buf: make([]byte, chunk),
			latency: hdrhistogram.New(1, int64(loadTimeout), 3),
		})
		if err := conn.SetDeadline(time.Now().Add(loadTimeout)); err != nil {
			return err
		}
		if s := conn.ConnectionState(); s.CipherSuite != tls.TLS_AES_128_GCM_SHA256 || s.CurveID != tls.X25519 {
			return fmt.Errorf("negotiated %s with %v, want TLS_AES_128_GCM_SHA256 with X25519: peers are not comparable",
				tls.CipherSuiteName(s.CipherSuite), s.CurveID)
		}
	}
	return nil
}

// all does the work on every connection at once and waits for the last.
func (l *load) all(w Work) error {
	errs := make([]error, len(l.clients))
	var wg sync.WaitGroup
	for i, c := range l.clients {
		wg.Go(func() {
			if err := c.work(w); err != nil {
				errs[i] = fmt.Errorf("connection %d: %c: %w", i, w.Op, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *client) work(w Work) error {
	if _, err := c.conn.Write(order{Work: w, Key: c.key}.encode()); err != nil {
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
	default:
		return c.roundTrips(w)
	}
}

func (c *client) roundTrips(w Work) error {
	for i := range w.Count {
		at := i * w.Size
		start := time.Now()
		if _, err := c.conn.Write(c.pattern.at(at, int(w.Size))); err != nil {
			return err
		}
		if _, err := io.ReadFull(c.conn, c.buf[:w.Size]); err != nil {
			return fmt.Errorf("after %d of %d round trips: %w", i, w.Count, err)
		}
		if err := c.latency.RecordValue(int64(time.Since(start))); err != nil {
			return err
		}
		if err := c.pattern.check(at, c.buf[:w.Size]); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) latency() *Latency {
	sum := hdrhistogram.New(1, int64(loadTimeout), 3)
	for _, c := range l.clients {
		sum.Merge(c.latency)
	}
	at := func(percentile float64) float64 { return float64(sum.ValueAtPercentile(percentile)) / 1e3 }
	return &Latency{P50: at(50), P90: at(90), P99: at(99), Max: float64(sum.Max()) / 1e3}
}

func (l *load) finish() error {
	var errs []error
	for _, c := range l.clients {
		errs = append(errs, c.conn.Close())
	}
	l.clients = nil
	return errors.Join(errs...)
}
