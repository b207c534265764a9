// SPDX-License-Identifier: Apache-2.0

// Bench measures what a gateway costs: CPU time per GB and per round trip of
// Sluice, spliced and as a relay, and of its peers, on one machine in one run.
//
//	go run ./bench [-rounds 5] [-json FILE] [-peers LIST] [-scenarios LIST] [-out DIR]
//
// With -json it goes on where an earlier run with the same file stopped. With
// -out it leaves files to keep; two of them are compared by
//
//	cd bench/picture && go tool benchstat ../results/DATE-haproxy.txt ../results/DATE-spliced.txt
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
// Programs that people load servers with work through the gateways, too, with
// the servers themselves behind: pgbench with PostgreSQL, redis-benchmark with
// Redis, Mosquitto's clients with Mosquitto. redis-benchmark speaks TLS; for the
// others, who do not or not by server name, the client process does. They tell
// how much they did, and their connections are part of it; Mosquitto's messages
// are compared.
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
	"time"

	"github.com/sluice-gateway/sluice/bench/report"
)

// options are the command line.
type options struct {
	rounds    int
	json      string
	out       string
	against   string
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
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of every scenario through every gateway; 0 only shows what the file of -json has")
	flag.StringVar(&o.json, "json", "", "write every figure to this `file` after every round, and go on where it stops")
	flag.StringVar(&o.out, "out", "", "write what is to be kept to this `folder`: the JSON, a page, and a file for benchstat of every gateway")
	flag.StringVar(&o.against, "against", "", "compare with the newest results of this `folder`, and fail when Sluice is worse than noise allows")
	flag.StringVar(&o.peers, "peers", "", "comma-separated `list` of gateways to measure (default all)")
	flag.StringVar(&o.scenarios, "scenarios", "", "comma-separated `list` of scenarios, each by the start of its name (default all)")
	flag.IntVar(&o.workers, "workers", 0, "limit every gateway to this many threads or processes (default one per CPU)")
	flag.Float64Var(&o.share, "share", 1, "do this share of the work per window: less is faster and noisier")
	flag.StringVar(&o.sluice, "sluice", "", "measure this sluice `binary` instead of building one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	found, err := run(ctx, o)
	if found != nil {
		err = errors.Join(err, show(found))
		if o.out != "" {
			err = errors.Join(err, found.WriteResults(o.out))
		}
		if o.against != "" {
			err = errors.Join(err, guard(found, o.against))
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// run measures. It returns a report even with an error once there are windows.
func run(ctx context.Context, o options) (_ *report.Report, err error) {
	if o.rounds == 0 {
		return report.Load(o.json)
	}
	dir, err := os.MkdirTemp("", "sluice-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	found, err := report.Open(o.json, host(), report.Setting{Share: o.share, Workers: o.workers})
	if err != nil {
		return nil, err
	}
	if found.Load[0] == "" {
		found.Load[0] = loadAverage()
	}
	found.Scenarios, found.Peers = described(scenarios(o.share)), names(peers(""))
	todo := pick(scenarios(o.share), o.scenarios, func(s Scenario) string { return s.Name })
	chosen, err := choosePeers(ctx, o, dir, found)
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
	r := runner{s, found, newProgress(o.rounds, todo, chosen, found)}
	if err := r.rounds(ctx, o, todo, chosen); err != nil {
		return nil, err
	}
	found.Summarize()
	if slices.ContainsFunc(found.Windows, func(w report.Window) bool { return w.Error != "" }) {
		return found, errors.New("some windows failed: see above")
	}
	return found, nil
}

// choosePeers returns the peers that can be measured here and notes the others
// in what was found.
func choosePeers(ctx context.Context, o options, dir string, found *report.Report) ([]Peer, error) {
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
			found.Skipped[p.Name] = err.Error()
			continue
		}
		delete(found.Skipped, p.Name)
		if was := found.Versions[p.Name]; was != "" && was != version {
			return nil, fmt.Errorf("%s has windows of %s %s, and this is %s: name another file, or remove it", o.json, p.Name, was, version)
		}
		found.Versions[p.Name] = version
		chosen = append(chosen, p)
	}
	return chosen, nil
}

// show prints what was found.
func show(r *report.Report) error {
	if err := r.WriteTable(os.Stdout); err != nil {
		return err
	}
	w := r.Worst()
	fmt.Printf("\nload average %s before, %s after; at worst others took %.0f %% of the CPUs and the hypervisor %.0f %% (%s, %s, round %d)\n",
		r.Load[0], r.Load[1], 100*w.Others, 100*w.Steal, w.Scenario, w.Peer, w.Round+1)
	fmt.Println("idle-class spinners ran on every CPU; every byte was checked, of programs what they check; vs = median of the rounds' ratios [95 % confidence] (rounds that were lower / rounds)")
	if slices.ContainsFunc(r.Rows, func(row report.Row) bool {
		return row.Peer == report.Spliced && row.Scenario == "upload" && row.Spliced != nil && *row.Spliced == 0
	}) {
		fmt.Println("spliced: no byte of an upload went past TCP; sluice doctor says what the splice lacks here")
	}
	return nil
}

// guard prints what has changed since the newest results of a folder. It fails
// when something is worse.
func guard(now *report.Report, dir string) error {
	then, err := report.Latest(dir)
	if err != nil {
		return err
	}
	if then == nil {
		fmt.Printf("\n%s has no results yet to compare with: make bench writes them\n", dir)
	} else {
		fmt.Printf("\nagainst the results of %s (%s, Linux %s; here %s, Linux %s)\n",
			then.Time.Format(time.DateOnly), then.Host.CPU, then.Host.Kernel, now.Host.CPU, now.Host.Kernel)
	}
	worse, err := report.WriteChanges(os.Stdout, now.Changes(then))
	switch {
	case err != nil:
		return err
	case worse > 0:
		return fmt.Errorf("%d ratios are worse than noise allows; run it once more before you believe it", worse)
	case then != nil:
		fmt.Println("nothing is worse than noise allows")
	}
	return nil
}
