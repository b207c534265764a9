// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/sluice-gateway/sluice/bench/report"
)

// loadTimeout is how long one piece of work may take.
const loadTimeout = 2 * time.Minute

// loadRequest is one step of a window. Prepare connects and does the warm-up,
// measure does the work, finish closes the connections.
type loadRequest struct {
	Step     string
	Target   Target   // prepare
	Scenario Scenario // prepare and measure
	// Rate is how many messages a second an open scenario sends, all
	// connections together.
	Rate float64
}

// Target is where clients connect and whom they expect there.
type Target struct {
	Address     netip.AddrPort
	Plain       bool     // TCP instead of TLS
	ServerNames []string // taken in turn
	Root        []byte   // PEM of the authority
}

// loadReply answers each step.
type loadReply struct {
	Error string `json:",omitempty"`
	// Refused says that the peer ended the handshake with an alert: it has no
	// group in common.
	Refused bool `json:",omitempty"`
	// Wall is how long the measured work took.
	Wall time.Duration
	// Latency is set for messages and connections.
	Latency *report.Latency
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
			reply.Error, reply.Refused = err.Error(), refused(err)
			_ = l.finish()
		}
		if err := out.Encode(reply); err != nil {
			return err
		}
	}
}

// load is the connections of one window.
type load struct {
	dialer     *dialer
	clients    []*client // that work
	held       []*client // that are idle
	connectors []*connector
	program    *programClient
}

func (l *load) do(req loadRequest) (reply loadReply, err error) {
	s := req.Scenario
	switch req.Step {
	case "prepare":
		if l.dialer, err = newDialer(req.Target, s); err != nil {
			return reply, err
		}
		return reply, l.prepare(s)
	case "measure":
		l.reset()
		start := time.Now()
		switch {
		case s.Open:
			err = openLoop(l.clients, s.Measured, req.Rate)
		case s.Measured.Op == Run:
			err = l.program.work(s.Measured.Count)
		case s.Measured.Op == Connect:
			err = l.connect(s.Measured.Count)
		case s.Measured.Op == Hold:
			err = l.hold(s.Connections-len(l.held), s.Measured.Size)
		default:
			err = l.all(s.Measured)
		}
		reply.Wall = time.Since(start)
		reply.Latency = l.latency()
		return reply, err
	case "finish":
		return reply, l.finish()
	}
	return reply, fmt.Errorf("unknown step %q", req.Step)
}

func (l *load) prepare(s Scenario) error {
	switch s.Measured.Op {
	case Run:
		var err error
		if l.program, err = newProgramClient(l.dialer, s); err != nil {
			return err
		}
		return l.program.work(s.Warm.Count)
	case Connect:
		for range s.Connections {
			l.connectors = append(l.connectors, newConnector(l.dialer))
		}
		return l.connect(s.Warm.Count)
	case Hold:
		// A tenth: what the window adds is free of what the first ones cost.
		return l.hold((s.Connections+9)/10, s.Warm.Size)
	}
	if err := l.hold(s.Idle, 5); err != nil {
		return err
	}
	for range s.Connections {
		c, err := newClient(l.dialer)
		if err != nil {
			return err
		}
		l.clients = append(l.clients, c)
	}
	return l.all(s.Warm)
}

// all does the work on every connection at once and waits for the last.
func (l *load) all(w Work) error {
	return inParallel(len(l.clients), func(i int) error { return l.clients[i].work(w) })
}

// connect makes count connections with every connector.
func (l *load) connect(count int64) error {
	return inParallel(len(l.connectors), func(i int) error { return l.connectors[i].connect(count) })
}

// hold opens n more connections, sends size bytes on each and gets them back.
func (l *load) hold(n int, size int64) error {
	const workers = 8
	opened := make([][]*client, workers)
	err := inParallel(workers, func(worker int) error {
		for i := worker; i < n; i += workers {
			c, err := newClient(l.dialer)
			if err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			opened[worker] = append(opened[worker], c)
			if err := c.work(Work{Op: Echo, Size: size, Count: 1}); err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
			c.rest()
		}
		return nil
	})
	for _, clients := range opened {
		l.held = append(l.held, clients...)
	}
	return err
}

// inParallel runs f for 0 to n-1 at once and waits for the last.
func inParallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				errs[i] = fmt.Errorf("client %d: %w", i, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(loadTimeout), 3) }

func (l *load) histograms() (all []*hdrhistogram.Histogram) {
	for _, c := range l.clients {
		all = append(all, c.latency)
	}
	for _, c := range l.connectors {
		all = append(all, c.latency)
	}
	return all
}

// reset forgets the latencies of the warm-up.
func (l *load) reset() {
	for _, h := range l.histograms() {
		h.Reset()
	}
}

// latency is that of all clients together, nil when nothing was recorded.
func (l *load) latency() *report.Latency {
	sum := newHistogram()
	for _, h := range l.histograms() {
		sum.Merge(h)
	}
	if sum.TotalCount() == 0 {
		return nil
	}
	at := func(percentile float64) float64 { return float64(sum.ValueAtPercentile(percentile)) / 1e3 }
	return &report.Latency{P50: at(50), P90: at(90), P99: at(99), Max: float64(sum.Max()) / 1e3}
}

func (l *load) finish() error {
	var errs []error
	for _, clients := range [][]*client{l.clients, l.held} {
		for _, c := range clients {
			errs = append(errs, c.conn.Close())
		}
	}
	if l.program != nil {
		errs = append(errs, l.program.Close())
	}
	*l = load{}
	return errors.Join(errs...)
}
