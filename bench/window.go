// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/sluice-gateway/sluice/bench/report"
)

// cpuReading is the CPU time of everything at one moment.
type cpuReading struct {
	gateway, backend, client, spinner time.Duration
	machine                           Machine
}

// behind is what stands behind a gateway.
type behind interface {
	cpu() (time.Duration, error)
}

func (s *stage) read(g *gateway, b behind) (r cpuReading, err error) {
	var errs [5]error
	r.gateway, errs[0] = cpuTimes(g.pids)
	r.backend, errs[1] = b.cpu()
	r.client, errs[2] = familyTime(s.load.pid())
	r.spinner, errs[3] = cpuTime(s.spinner.pid())
	r.machine, errs[4] = readMachine()
	return r, errors.Join(errs[:]...)
}

// measure does one window with a gateway process of its own: nothing of
// another peer runs beside it, and no peer is judged by one lucky start. rate
// is that of an open scenario.
func (s *stage) measure(ctx context.Context, peer Peer, scenario Scenario, round int, rate float64) report.Window {
	w := report.Window{Round: round, Peer: peer.Name, Scenario: scenario.Name, Rate: rate, Load: loadAverage()}
	if w.Lacks = peer.lacks(scenario); w.Lacks != "" {
		return w
	}
	g, b, err := s.open(ctx, peer, scenario)
	if err == nil {
		err = errors.Join(s.run(ctx, g, b, scenario, &w), g.Close())
	}
	switch {
	case errors.Is(err, errRefused) && !peer.Metrics:
		w.Lacks = fmt.Sprintf("its TLS library has no %v", scenario.group())
	case err != nil:
		w.Error = err.Error()
	}
	return w
}

// open starts the gateway of a window.
func (s *stage) open(ctx context.Context, peer Peer, scenario Scenario) (*gateway, behind, error) {
	b, at, err := s.behind(scenario)
	if err != nil {
		return nil, nil, err
	}
	site := Site{Dir: s.dir, Mode: scenario.Mode, Backend: at.Plain, Workers: s.workers}
	if site.identities, err = s.identities(scenario); err != nil {
		return nil, nil, err
	}
	if scenario.Mode == Passthrough {
		site.Backend = at.TLS
	}
	if peer.Command != nil {
		g, err := startGateway(ctx, peer, site)
		return g, b, err
	}
	site.Listen = at.TLS
	if scenario.Mode == Plain {
		site.Listen = at.Plain
	}
	return &gateway{peer: peer, site: site}, b, nil
}

// behind is what a scenario needs behind a gateway, and where.
func (s *stage) behind(scenario Scenario) (behind, backendAddress, error) {
	if scenario.Program != "" {
		server := s.servers[scenario.Program]
		return server, backendAddress{Plain: server.address}, nil
	}
	b := s.near
	if scenario.Remote {
		b = s.far
	}
	at, err := b.fresh()
	return b, at, err
}

// target is where the clients of a gateway connect.
func (s *stage) target(g *gateway) Target {
	t := Target{Address: g.site.Listen, Plain: g.site.Mode == Plain, Root: s.authority.root()}
	for _, id := range g.site.identities {
		t.ServerNames = append(t.ServerNames, id.Name)
	}
	return t
}

func (s *stage) run(ctx context.Context, g *gateway, b behind, scenario Scenario, w *report.Window) error {
	if _, err := s.step(loadRequest{Step: "prepare", Scenario: scenario, Target: s.target(g)}); err != nil {
		return err
	}
	if err := g.refresh(); err != nil {
		return err
	}
	trafficBefore, err := g.traffic(ctx)
	if err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond) // whatever the warm-up left to do ends here
	memoryBefore, err := g.memory(scenario)
	if err != nil {
		return err
	}
	before, err := s.read(g, b)
	if err != nil {
		return err
	}
	reply, err := s.step(loadRequest{Step: "measure", Scenario: scenario, Rate: w.Rate})
	if err != nil {
		return err
	}
	after, err := s.read(g, b)
	if err != nil {
		return err
	}
	trafficAfter, err := g.traffic(ctx)
	if err != nil {
		return err
	}
	fill(w, scenario, before, after, reply)
	if w.Spliced = trafficAfter.splicedSince(trafficBefore); w.Spliced != nil {
		short(w.Spliced)
	}
	if scenario.Measured.Op == Hold {
		if err := fillMemory(w, g, scenario, memoryBefore); err != nil {
			return err
		}
	}
	_, err = s.step(loadRequest{Step: "finish"})
	return err
}

// errRefused says that a peer has no TLS parameters in common with the client.
var errRefused = errors.New("handshake refused")

func (s *stage) step(req loadRequest) (reply loadReply, err error) {
	if err := s.load.send(req); err != nil {
		return reply, fmt.Errorf("client: %w", err)
	}
	if err := s.load.receive(&reply); err != nil {
		return reply, fmt.Errorf("client: %w", err)
	}
	if reply.Refused {
		return reply, fmt.Errorf("client: %s: %w: %s", req.Step, errRefused, reply.Error)
	}
	if reply.Error != "" {
		return reply, fmt.Errorf("client: %s: %s", req.Step, reply.Error)
	}
	return reply, nil
}

// fill sets the figures of a window.
func fill(w *report.Window, scenario Scenario, before, after cpuReading, reply loadReply) {
	gateway, backend := after.gateway-before.gateway, after.backend-before.backend
	client, spinner := after.client-before.client, after.spinner-before.spinner
	w.Wall = reply.Wall.Seconds()
	w.Gateway, w.Backend, w.Client = gateway.Seconds(), backend.Seconds(), client.Seconds()
	w.PerUnit = w.Gateway / scenario.Units() * scenario.Scale
	w.BackendPerUnit = w.Backend / scenario.Units() * scenario.Scale
	w.ClientPerUnit = w.Client / scenario.Units() * scenario.Scale
	w.Latency = reply.Latency
	machine := after.machine.minus(before.machine)
	if machine.Total > 0 {
		w.Steal = float64(machine.Steal) / float64(machine.Total)
		others := machine.Total - machine.Idle - machine.Steal - gateway - backend - client - spinner
		w.Others = max(0, float64(others)/float64(machine.Total)) // ticks are coarse
	}
	short(&w.Wall, &w.Gateway, &w.Backend, &w.Client, &w.PerUnit, &w.BackendPerUnit, &w.ClientPerUnit, &w.Steal, &w.Others, &w.Rate)
}

// short leaves six digits: nothing here is known better, and files are kept.
func short(values ...*float64) {
	for _, v := range values {
		*v, _ = strconv.ParseFloat(strconv.FormatFloat(*v, 'g', 6, 64), 64)
	}
}

var loopback = netip.MustParseAddr("127.0.0.1")
