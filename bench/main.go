// SPDX-License-Identifier: Apache-2.0

// Bench measures what a gateway costs: CPU time per GB and per round trip of
// Sluice, spliced and as a relay, and of its peers, on one machine in one run.
//
//	go run ./bench [-rounds 5] [-json FILE] [-peers LIST] [-scenarios LIST]
//
// With -json it goes on where an earlier run with the same file stopped.
//
// # Method
//
// A window is one scenario through one freshly started gateway: the client
// connects, warms up, and does a fixed amount of work. Client, gateway and
// backend are processes of their own; as root the backend lives in another
// network namespace behind a veth pair, otherwise on loopback. CPU times are
// read from the kernel's per-process clocks right before and after the work.
// In every round each scenario visits every gateway, forth and back in turn.
//
// Client and gateway speak TLS 1.3 with AES-128-GCM, and X25519 and an ECDSA
// P-256 certificate unless the scenario says otherwise; anything else fails the
// run. Every byte is checked: the backend checks uploads, the client downloads
// and echoes. The backend reads with read(2). A remote backend is behind a link
// of 1 Gbit/s and address translation.
//
// An open loop sends at fixed times, the same for every gateway: at half of the
// rate that the slowest of them reached in a closed loop before the rounds.
// Memory is what idle connections add after the first tenth of them.
//
// Every gateway may use all CPUs, by the default or the recommendation of its
// own documentation: a thread per CPU (HAProxy, Envoy), a worker process per CPU
// (nginx, Hitch), a thread per connection (stunnel), GOMAXPROCS (Sluice). The configurations are in the folder peers.
//
// Idle-class spinners keep virtual CPUs from halting during the run. The
// minimum over the rounds is the figure that other load on the machine
// disturbs least; ratios are taken within a round.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// options are the command line.
type options struct {
	rounds    int
	json      string
	peers     string
	scenarios string
	workers   int
	share     float64
	sluice    string
}

func main() {
	if runPart(os.Args) {
		return
	}
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of every scenario through every gateway")
	flag.StringVar(&o.json, "json", "", "write every figure to this `file` after every round, and go on where it stops")
	flag.StringVar(&o.peers, "peers", "", "comma-separated `list` of gateways to measure (default all)")
	flag.StringVar(&o.scenarios, "scenarios", "", "comma-separated `list` of scenarios, each by the start of its name (default all)")
	flag.IntVar(&o.workers, "workers", 0, "limit every gateway to this many threads or processes (default one per CPU)")
	flag.Float64Var(&o.share, "share", 1, "do this share of the work per window: less is faster and noisier")
	flag.StringVar(&o.sluice, "sluice", "", "measure this sluice `binary` instead of building one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := run(ctx, o)
	if report != nil {
		err = errors.Join(err, printReport(report, o))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// run measures. It returns a report even with an error once there are windows.
func run(ctx context.Context, o options) (_ *Report, err error) {
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	report, err := openReport(o.json, Setting{o.share, o.workers})
	if err != nil {
		return nil, err
	}
	todo := pick(scenarios(o.share), o.scenarios, func(s Scenario) string { return s.Name })
	chosen, err := choosePeers(ctx, o, dir, report)
	if err != nil {
		return nil, err
	}
	if len(chosen) == 0 || len(todo) == 0 {
		return nil, errors.New("nothing to measure: see -peers and -scenarios")
	}
	s, cleanup, err := setStage(ctx, dir, todo)
	defer func() { err = errors.Join(err, cleanup()) }()
	if err != nil {
		return nil, err
	}
	s.workers = o.workers
	r := runner{s, report, newProgress(o.rounds, todo, chosen, report)}
	if err := r.rounds(ctx, o, todo, chosen); err != nil {
		return nil, err
	}
	report.summarize()
	if slices.ContainsFunc(report.Windows, func(w Window) bool { return w.Error != "" }) {
		return report, errors.New("some windows failed: see above")
	}
	return report, nil
}

// choosePeers returns the peers that can be measured here and notes the others
// in the report.
func choosePeers(ctx context.Context, o options, dir string, report *Report) ([]Peer, error) {
	name := func(p Peer) string { return p.Name }
	binary := o.sluice
	if binary == "" && slices.ContainsFunc(pick(peers(""), o.peers, name), func(p Peer) bool { return p.Metrics }) {
		fmt.Fprintln(os.Stderr, "building sluice")
		var err error
		if binary, err = buildSluice(ctx, dir); err != nil {
			return nil, err
		}
	}
	var chosen []Peer
	for _, p := range pick(peers(binary), o.peers, name) {
		version, err := p.Version()
		if err != nil {
			fmt.Fprintf(os.Stderr, "skipping %s: %v\n", p.Name, err)
			report.Skipped[p.Name] = err.Error()
			continue
		}
		delete(report.Skipped, p.Name)
		report.Versions[p.Name] = version
		chosen = append(chosen, p)
	}
	return chosen, nil
}
