// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/address"
	"github.com/sluice-gateway/sluice/agent/splice"
	"github.com/sluice-gateway/sluice/controller/folder"
	"github.com/sluice-gateway/sluice/terminator"
	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// defaultMetrics is where /metrics, /healthz and /readyz are, for this machine
// only.
const defaultMetrics = "127.0.0.1:9464"

// runFlags are the flags of sluice run, and of sluice agent.
type runFlags struct {
	admin, metrics, splice, accessLog string
	recordLoop, eventLoop, gcm        string
	pinDir, cgroup                    string
	logLevel                          slog.Level
	drainTimeout, idleTimeout         time.Duration
	maxConnections                    int
	takeOver                          bool
	sources                           sources

	lostLines prometheus.Counter // of the access log
}

func (f *runFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&f.admin, "admin", defaultAdmin(), "`path` of the admin socket; its file mode, 0600, is the access control")
	flags.BoolVar(&f.takeOver, "take-over", false, "take over from the agent that runs at the admin socket, without refusing a connection")
	flags.StringVar(&f.metrics, "metrics", defaultMetrics, "`address` of /metrics, /healthz and /readyz, or off")
	flags.StringVar(&f.splice, "splice", "auto", "`auto` splices where this machine can, off relays everything")
	flags.StringVar(&f.recordLoop, "record-loop", "on", "`on` carries TLS 1.3 in records of our own after the handshake, off leaves it to crypto/tls")
	flags.StringVar(&f.gcm, "gcm", "auto", "`auto` has kernels of our own for AES-GCM in the record loop where the processor can, off leaves it to crypto/cipher")
	flags.StringVar(&f.eventLoop, "event-loop", "on", "`on` carries what the record loop has on few epoll loops, off on goroutines")
	flags.StringVar(&f.accessLog, "access-log", "off", "`file` for one JSON line per connection and HTTP request, - for standard output, or off")
	flags.StringVar(&f.pinDir, "pin-dir", splice.DefaultPinDir, "`folder` on a bpffs where bpftool finds the maps")
	flags.StringVar(&f.cgroup, "cgroup", "", "cgroup2 `folder` of the backends to splice into (default the root of cgroup2)")
	flags.TextVar(&f.logLevel, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flags.DurationVar(&f.drainTimeout, "drain-timeout", 30*time.Second, "how long connections may finish after SIGTERM")
	flags.DurationVar(&f.idleTimeout, "idle-timeout", time.Hour, "resets a connection that moved no byte for so long")
	flags.IntVar(&f.maxConnections, "max-connections", 50_000, "open connections per listener")
	flags.Var(&f.sources, "source-addresses", "local `addresses`, with commas between, to connect to TCP backends from (default the kernel's choice): each has as many ports towards an endpoint as net.ipv4.ip_local_port_range")
}

func (f *runFlags) check() error {
	switch {
	case f.splice != "auto" && f.splice != "off":
		return usageError(fmt.Sprintf("-splice %q is neither auto nor off", f.splice))
	case f.recordLoop != "on" && f.recordLoop != "off":
		return usageError(fmt.Sprintf("-record-loop %q is neither on nor off", f.recordLoop))
	case f.gcm != "auto" && f.gcm != "off":
		return usageError(fmt.Sprintf("-gcm %q is neither auto nor off", f.gcm))
	case f.eventLoop != "on" && f.eventLoop != "off":
		return usageError(fmt.Sprintf("-event-loop %q is neither on nor off", f.eventLoop))
	case f.metrics != "off" && !isAddress(f.metrics):
		return usageError(fmt.Sprintf("-metrics %q is neither host:port, as in %s, nor off", f.metrics, defaultMetrics))
	case f.drainTimeout <= 0:
		return usageError("-drain-timeout must be more than 0")
	case f.idleTimeout <= 0:
		return usageError("-idle-timeout must be more than 0")
	case f.maxConnections <= 0:
		return usageError("-max-connections must be more than 0")
	}
	return nil
}

// isAddress tells whether s is a host, which may be empty, and a port.
func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// open opens the logs; the access log is nil where there is to be none.
func (f *runFlags) open(e *env) (log *slog.Logger, accessLog io.WriteCloser, err error) {
	log = newLog(e.stderr, f.logLevel)
	harden(log)
	f.lostLines = agent.NewLostLines()
	accessLog, err = openAccessLog(f.accessLog, e.stdout, log, f.lostLines)
	return log, accessLog, err
}

// newLog returns the log of a program that serves. What libraries say by package log is
// in it for those who debug: net/http prints what a backend says unasked, each time.
func newLog(w io.Writer, level slog.Leveler) *slog.Logger {
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
	slog.SetLogLoggerLevel(slog.LevelDebug)
	slog.SetDefault(log)
	return log
}

// harden is for whoever holds private keys.
func harden(log *slog.Logger) {
	if _, err := agent.Harden(); err != nil {
		log.Warn("process is not hardened", "error", err)
	}
}

// options are those of an agent that runs as the flags say.
func (f *runFlags) options(log *slog.Logger, accessLog io.Writer) agent.Options {
	opts := agent.Options{Version: buildVersion(), Instance: os.Getenv("POD_NAME"), Admin: f.admin, TakeOver: f.takeOver, Page: ownPage, Log: log,
		Collectors: []prometheus.Collector{f.lostLines},
		Server: &terminator.Server{NoRecordLoop: f.recordLoop == "off", NoEventLoop: f.eventLoop == "off", NoGCM: f.gcm == "off",
			DrainTimeout: f.drainTimeout, IdleTimeout: f.idleTimeout, MaxConnections: f.maxConnections, Sources: f.sources, Log: log}}
	if f.metrics != "off" {
		opts.Metrics = f.metrics
	}
	if f.splice == "auto" {
		opts.Splice = &splice.Options{Cgroup: f.cgroup, PinDir: f.pinDir, Log: log}
	}
	if accessLog != nil {
		opts.Server.AccessLog = slog.New(slog.NewJSONHandler(accessLog, nil))
	}
	return opts
}

// tellGCM says who does AES-GCM.
func (f *runFlags) tellGCM(log *slog.Logger) {
	why := gcm.Reason()
	switch {
	case f.recordLoop == "off":
		why = "-record-loop=off"
	case f.gcm == "off":
		why = "-gcm=off"
	}
	if why == "" {
		log.Info("AES-GCM: kernels for VAES and AVX-512, in the record loop")
	} else {
		log.Info("AES-GCM: crypto/cipher", "reason", why)
	}
}

// defaultAdmin is the path of the admin socket where -admin gives none.
func defaultAdmin() string {
	if os.Geteuid() == 0 {
		return "/run/sluice/admin.sock"
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "sluice", "admin.sock")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("sluice-%d", os.Geteuid()), "admin.sock")
}

// run serves a folder until SIGTERM or SIGINT: the first drains, the second
// ends at once. SIGHUP opens the access log anew and reads the folder again.
func run(e *env, flags *flag.FlagSet, args []string) error {
	var f runFlags
	f.register(flags)
	if err := parse(flags, args, "DIR"); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	log, accessLog, err := f.open(e)
	if err != nil {
		return err
	}
	if accessLog != nil {
		defer accessLog.Close()
	}

	src := &source{dir: flags.Arg(0), log: log, nodeAddresses: nodeAddresses()}
	opts := f.options(log, accessLog)
	opts.Resources, opts.Routes = src.report, src.routes
	reread := make(chan os.Signal, 1)
	signal.Notify(reread, syscall.SIGHUP)
	defer signal.Stop(reread)
	defer src.letGo()
	opts.HandedOver = src.handOver
	dir := &folder.Folder{Dir: flags.Arg(0), Reread: reread}
	if err := dir.Check(); err != nil {
		return err
	}
	ctx, stop := drainOnSignal(e.ctx, log)
	defer stop()
	src.end = stop
	a, err := agent.New(opts)
	if err != nil {
		return err
	}
	src.agent = a
	f.tellGCM(log)
	return serve(ctx, stop, a, func(ctx context.Context) error { return dir.Run(ctx, src.apply) })
}

// serve runs the agent and what feeds it. Either's end ends both; the feeding
// stops first, for nothing is to change while connections drain.
func serve(ctx context.Context, stop func(), a *agent.Agent, feed func(context.Context) error) error {
	fed := make(chan error, 1)
	go func() {
		defer stop()
		fed <- feed(ctx)
	}()
	err := a.Run(ctx)
	stop()
	if feedErr := <-fed; feedErr != nil {
		return feedErr
	}
	return err
}

// drainOnSignal returns a context that ends at SIGTERM or SIGINT. The next of
// these signals ends the process at once, as it does without a handler: the
// kernel then resets what is open, so nothing looks finished that is not. Where the
// caller stops without a signal, as when the start fails, it says itself why.
func drainOnSignal(parent context.Context, log *slog.Logger) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, func() {
		stop()
		if context.Cause(ctx) != context.Canceled { //nolint:errorlint // the signal, which is context.Canceled by errors.Is, too
			log.Info("ending: connections may finish; another signal ends at once")
		}
	})
	return ctx, stop
}

// nodeAddresses are the addresses by which others reach this machine; those of
// the loopback link when there are no others.
func nodeAddresses() []netip.Addr {
	all, err := address.Node()
	if err != nil {
		return nil
	}
	var global, loopback []netip.Addr
	for _, a := range all {
		switch {
		case a.IsLinkLocalUnicast() || slices.Contains(global, a):
		case a.IsLoopback():
			loopback = append(loopback, a)
		default:
			global = append(global, a)
		}
	}
	if len(global) == 0 {
		return loopback
	}
	return global
}
