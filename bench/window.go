// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Window is one scenario through one gateway in one round.
type Window struct {
	Round    int    `json:"round"`
	Peer     string `json:"peer"`
	Scenario string `json:"scenario"`
	Error    string `json:"error,omitempty"`
	// Wall is in seconds.
	Wall float64 `json:"wall_seconds"`
	// CPU times of the whole window, in seconds.
	Gateway float64 `json:"gateway_cpu_seconds"`
	Backend float64 `json:"backend_cpu_seconds"`
	Client  float64 `json:"client_cpu_seconds"`
	// PerUnit is the gateway's CPU time per unit of the scenario, in its unit;
	// BackendPerUnit the backend's.
	PerUnit        float64  `json:"gateway_per_unit"`
	BackendPerUnit float64  `json:"backend_per_unit"`
	Latency        *Latency `json:"latency_us,omitempty"`
	// Spliced is the share of the payload, both ways, that took the splice; nil
	// when the gateway does not count it.
	Spliced *float64 `json:"spliced,omitempty"`
	// Steal and Others are the shares of the machine's CPU time that the
	// hypervisor and processes outside the benchmark took meanwhile.
	Steal  float64 `json:"steal"`
	Others float64 `json:"others"`
}

// cpuReading is the CPU time of everything at one moment.
type cpuReading struct {
	gateway, backend, client, spinner time.Duration
	machine                           Machine
	at                                time.Time
}

func (s *stage) read(g *gateway) (r cpuReading, err error) {
	var errs [5]error
	r.at = time.Now()
	r.gateway, errs[0] = cpuTimes(g.pids)
	r.backend, errs[1] = cpuTime(s.backend.pid())
	r.client, errs[2] = cpuTime(s.load.pid())
	r.spinner, errs[3] = cpuTime(s.spinner.pid())
	r.machine, errs[4] = readMachine()
	return r, errors.Join(errs[:]...)
}

// measure does one window with a gateway process of its own: nothing of
// another peer runs beside it, and no peer is judged by one lucky start.
func (s *stage) measure(ctx context.Context, peer Peer, scenario Scenario, round int) Window {
	w := Window{Round: round, Peer: peer.Name, Scenario: scenario.Name}
	g, err := startGateway(ctx, peer, s.site)
	if err == nil {
		err = errors.Join(s.run(ctx, g, scenario, &w), g.Close())
	}
	if err != nil {
		w.Error = err.Error()
	}
	return w
}

func (s *stage) run(ctx context.Context, g *gateway, scenario Scenario, w *Window) error {
	prepare := loadRequest{
		Step: "prepare", Scenario: scenario,
		Address: g.site.Listen, ServerName: s.site.ServerName, CA: s.site.certificate,
	}
	if _, err := s.step(prepare); err != nil {
		return err
	}
	trafficBefore, err := g.traffic(ctx)
	if err != nil {
		return err
	}
	time.Sleep(50 * time.Millisecond) // whatever the warm-up left to do ends here
	before, err := s.read(g)
	if err != nil {
		return err
	}
	reply, err := s.step(loadRequest{Step: "measure", Scenario: scenario})
	if err != nil {
		return err
	}
	after, err := s.read(g)
	if err != nil {
		return err
	}
	trafficAfter, err := g.traffic(ctx)
	if err != nil {
		return err
	}
	w.fill(scenario, before, after, reply)
	w.Spliced = trafficAfter.splicedSince(trafficBefore)
	_, err = s.step(loadRequest{Step: "finish"})
	return err
}

func (s *stage) step(req loadRequest) (reply loadReply, err error) {
	if err := s.load.send(req); err != nil {
		return reply, fmt.Errorf("client: %w", err)
	}
	if err := s.load.receive(&reply); err != nil {
		return reply, fmt.Errorf("client: %w", err)
	}
	if reply.Error != "" {
		return reply, fmt.Errorf("client: %s: %s", req.Step, reply.Error)
	}
	return reply, nil
}

func (w *Window) fill(scenario Scenario, before, after cpuReading, reply loadReply) {
	gateway, backend := after.gateway-before.gateway, after.backend-before.backend
	client, spinner := after.client-before.client, after.spinner-before.spinner
	w.Wall = reply.Wall.Seconds()
	w.Gateway, w.Backend, w.Client = gateway.Seconds(), backend.Seconds(), client.Seconds()
	w.PerUnit = w.Gateway / scenario.Units() * scenario.Scale
	w.BackendPerUnit = w.Backend / scenario.Units() * scenario.Scale
	w.Latency = reply.Latency
	machine := after.machine.minus(before.machine)
	if machine.Total > 0 {
		w.Steal = float64(machine.Steal) / float64(machine.Total)
		others := machine.Total - machine.Idle - machine.Steal - gateway - backend - client - spinner
		w.Others = max(0, float64(others)/float64(machine.Total)) // ticks are coarse
	}
}
