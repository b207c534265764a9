// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"log/slog"

	"k8s.io/klog/v2"

	"github.com/sluice-gateway/sluice/controller"
)

// clusterController decides what every node of a cluster serves, until SIGTERM
// or SIGINT.
func clusterController(e *env, flags *flag.FlagSet, args []string) error {
	var c clusterFlags
	c.register(flags)
	metrics := flags.String("metrics", ":9464", "`address` of /metrics, /healthz and /readyz, or off")
	level := slog.LevelInfo
	flags.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := parse(flags, args); err != nil {
		return err
	}
	config, err := c.config()
	if err != nil {
		return err
	}
	log := newLog(e.stderr, level)
	harden(log)
	klog.SetSlogLogger(log.With("from", "client-go"))
	opts := controller.Options{Config: config, Namespace: c.namespace, Identity: identity(), Log: log}
	if *metrics != "off" {
		opts.Metrics = *metrics
	}
	ctx, stop := drainOnSignal(e.ctx, log)
	defer stop()
	r, err := controller.New(opts)
	if err != nil {
		return err
	}
	return r.Run(ctx)
}
