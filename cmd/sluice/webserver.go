// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/agent"
)

// serveWeb serves a page on a loopback address, at a path that nobody guesses:
// unlike the admin socket, a port is there for every user of the machine.
func serveWeb(e *env, address string, of subject) error {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return usageError(fmt.Sprintf("-listen %q is no loopback address with a port, as in %s; the page is not encrypted: to see it elsewhere, forward the port with ssh -L", address, defaultWeb))
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%w; choose another address with -listen", err)
	}
	path := "/" + rand.Text()
	mux := http.NewServeMux()
	mux.Handle("GET "+path+"/", http.StripPrefix(path, newPage(of).handler()))
	ctx, stop := signal.NotifyContext(e.ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, WriteTimeout: 30 * time.Second,
		MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(e.stderr, nil), slog.LevelError)}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	fmt.Fprintf(e.stdout, "http://%s%s/\n", l.Addr(), path)
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ownPage is the page of a node, for its admin socket.
func ownPage(a *agent.Agent) http.Handler {
	name, _ := os.Hostname()
	nodes := func(_ context.Context, search string) ([]nodeAnswer, error) {
		raw, err := json.Marshal(a.Overview(search))
		return []nodeAnswer{{Node: cmp.Or(os.Getenv("NODE_NAME"), name), Answer: raw}}, err
	}
	return newPage(subject{nodes: nodes, every: time.Second}).handler()
}
