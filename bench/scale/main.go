// SPDX-License-Identifier: Apache-2.0

// Command scale measures what many Gateways, routes and endpoints cost: on a
// real API server, with a real controller, and with nodes that do all that the
// agent of a node does but serve.
//
//	go run ./bench/scale -gateways 1000 -routes 5000 -endpoints 20000 -nodes 10
//
// It prints: how long it takes until every Gateway is Programmed, the peak of
// the controller's memory, how long a change takes to reach every node, and how
// many bytes the API server sends a node for it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

type scale struct {
	gateways, routes, endpoints, nodes, changes int
	binary                                      string
}

func main() {
	var s scale
	flag.IntVar(&s.gateways, "gateways", 1000, "Gateways, each with one TLS listener")
	flag.IntVar(&s.routes, "routes", 5000, "TLSRoutes, each with a Service of its own")
	flag.IntVar(&s.endpoints, "endpoints", 20000, "endpoints of all Services together")
	flag.IntVar(&s.nodes, "nodes", 10, "nodes")
	flag.IntVar(&s.changes, "changes", 20, "changes of each kind to measure")
	flag.StringVar(&s.binary, "sluice", "build/sluice", "the `binary` whose controller is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func (s *scale) run(ctx context.Context) (err error) {
	server, err := apiserver.Start(ctx, apiserver.Options{})
	if err != nil {
		return err
	}
	defer func() { err = joined(err, server.Close()) }()
	w, err := newWorld(ctx, s, server)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := w.fill(ctx); err != nil {
		return err
	}
	fmt.Printf("%-44s %d Gateways, %d routes, %d endpoints in %s\n", "objects made", s.gateways, s.routes, s.endpoints, round(time.Since(began)))

	stopNodes, err := w.startNodes(ctx)
	if err != nil {
		return err
	}
	defer stopNodes()
	c, err := startController(server.Config(), s.binary)
	if err != nil {
		return err
	}
	defer func() { err = joined(err, c.stop()) }()
	took, err := w.programmed(ctx, c)
	if err != nil {
		return err
	}
	fmt.Printf("%-44s %s\n", "controller's start until all are Programmed", round(took))
	fmt.Printf("%-44s %s\n", "controller, memory and processor time so far", c.cost())

	for _, change := range []struct {
		what string
		make func(context.Context, int) (func() bool, error)
	}{{"an endpoint", w.changeEndpoint}, {"a route", w.changeRoute}, {"a certificate", w.changeCertificate}} {
		if err := w.measure(ctx, c, change.what, change.make); err != nil {
			return err
		}
	}
	fmt.Printf("%-44s %s\n", "controller, memory and processor time", c.cost())
	return nil
}

// measure makes changes one by one and prints what each takes until every node
// has it.
func (w *world) measure(ctx context.Context, c *controller, what string, change func(context.Context, int) (func() bool, error)) error {
	var took []time.Duration
	var bytes []int64
	cpu := c.seconds()
	for i := range w.changes {
		if err := w.settle(ctx); err != nil {
			return err
		}
		before, began := w.received.Load(), time.Now()
		done, err := change(ctx, i)
		if err != nil {
			return err
		}
		for !done() {
			if time.Since(began) > 2*time.Minute {
				return fmt.Errorf("change of %s: not every node has it after 2 minutes", what)
			}
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
		}
		took = append(took, time.Since(began))
		if err := w.settle(ctx); err != nil {
			return err
		}
		bytes = append(bytes, w.received.Load()-before)
	}
	slices.Sort(took)
	slices.Sort(bytes)
	fmt.Printf("%-44s min %s, median %s, max %s of %d; %d bytes to a node (median), %.3f s of the controller\n", "change of "+what+" until every node has it",
		round(took[0]), round(took[len(took)/2]), round(took[len(took)-1]), len(took), bytes[len(bytes)/2], (c.seconds()-cpu)/float64(w.changes))
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func joined(err, other error) error {
	if err == nil {
		return other
	}
	return err
}
