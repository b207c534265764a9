// SPDX-License-Identifier: Apache-2.0

// Bench measures what a gateway costs: CPU time per GB and per round trip of
// Sluice, spliced and as a relay, and of its peers, on one machine in one run.
//
//	go run ./bench [-rounds 5] [-json FILE] [-peers LIST] [-scenarios LIST]
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
// Client and gateway speak TLS 1.3 with X25519, AES-128-GCM and an ECDSA P-256
// certificate; anything else fails the run. Every byte is checked: the backend
// checks uploads, the client downloads and echoes. The backend reads with
// read(2).
//
// Every gateway may use all CPUs, by the default or the recommendation of its
// own documentation: a thread per CPU (HAProxy), a worker process per CPU
// (nginx), GOMAXPROCS (Sluice). The configurations are in the folder peers.
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
	"strings"
	"syscall"
	"time"
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
	flag.StringVar(&o.json, "json", "", "write every figure to this `file`")
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

	report := &Report{Time: time.Now(), Host: host(), Versions: map[string]string{}, Skipped: map[string]string{}}
	report.Load[0] = loadAverage()
	todo := pick(scenarios(o.share), o.scenarios, func(s Scenario) string { return s.Name })
	chosen, err := choosePeers(ctx, o, dir, report)
	if err != nil {
		return nil, err
	}
	if len(chosen) == 0 || len(todo) == 0 {
		return nil, errors.New("nothing to measure: see -peers and -scenarios")
	}
	s, cleanup, err := setStage(ctx, dir)
	defer func() { err = errors.Join(err, cleanup()) }()
	if err != nil {
		return nil, err
	}
	s.site.Workers = o.workers

	for round := range o.rounds {
		for _, scenario := range todo {
			for _, i := range turn(round, len(chosen)) {
				w := s.measure(ctx, chosen[i], scenario, round)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				report.Windows = append(report.Windows, w)
				progress(o, scenario, w)
			}
		}
	}
	report.Load[1] = loadAverage()
	report.Rows = summarize(todo, chosen, report.Windows)
	if slices.ContainsFunc(report.Windows, func(w Window) bool { return w.Error != "" }) {
		return report, errors.New("some windows failed: see above")
	}
	return report, nil
}

func progress(o options, s Scenario, w Window) {
	result := fmt.Sprintf("%s %s in %.1f s", figure(w.PerUnit), s.Unit, w.Wall)
	if w.Error != "" {
		result = "FAILED: " + w.Error
	}
	fmt.Fprintf(os.Stderr, "round %d/%d  %-10s  %-8s %s\n", w.Round+1, o.rounds, w.Scenario, w.Peer, result)
}

// choosePeers returns the peers that can be measured here and notes the others
// in the report.
func choosePeers(ctx context.Context, o options, dir string, report *Report) ([]Peer, error) {
	all := pick(peers(""), o.peers, func(p Peer) string { return p.Name })
	binary := o.sluice
	if binary == "" && slices.ContainsFunc(all, func(p Peer) bool { return p.Metrics }) {
		fmt.Fprintln(os.Stderr, "building sluice")
		var err error
		if binary, err = buildSluice(ctx, dir); err != nil {
			return nil, err
		}
	}
	var chosen []Peer
	for _, p := range pick(peers(binary), o.peers, func(p Peer) string { return p.Name }) {
		version, err := p.Version()
		if err != nil {
			fmt.Fprintf(os.Stderr, "skipping %s: %v\n", p.Name, err)
			report.Skipped[p.Name] = err.Error()
			continue
		}
		report.Versions[p.Name] = version
		chosen = append(chosen, p)
	}
	return chosen, nil
}

// pick returns the elements whose name begins with an entry of a
// comma-separated list, all for an empty list.
func pick[T any](all []T, list string, name func(T) string) []T {
	return slices.DeleteFunc(all, func(e T) bool {
		return !slices.ContainsFunc(strings.Split(list, ","), func(want string) bool {
			return strings.HasPrefix(name(e), strings.TrimSpace(want))
		})
	})
}
