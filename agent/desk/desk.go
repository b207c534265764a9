// SPDX-License-Identifier: Apache-2.0

// Package desk makes the HTTP servers for whoever looks after the program: metrics,
// probes, the admin socket. Some of them are ports that anybody may reach, so none
// takes more of the process than a few connections.
package desk

import (
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// most is how many connections a server has at once: a few collectors, probes and
// people.
const most = 64

// New returns a server for short requests and answers. A connection too many costs
// the one on which nothing happened for longest: whoever connects again and again must
// not keep probes out, which would have the program restarted.
func New(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second, // of a body as well, also of one that no handler reads
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute, // a forgotten client must not keep a descriptor
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ConnState:         new(visitors).changed,
	}
}

// visitors are the open connections of a server, in the order in which they came or
// last had a request that began or was answered.
type visitors struct {
	mu   sync.Mutex
	open []net.Conn
}

// changed is http.Server.ConnState. The server calls it with a new connection before
// it accepts another one.
func (v *visitors) changed(c net.Conn, now http.ConnState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open = slices.DeleteFunc(v.open, func(o net.Conn) bool { return o == c })
	if now == http.StateClosed || now == http.StateHijacked {
		return
	}
	if now == http.StateNew && len(v.open) >= most {
		_ = v.open[0].Close()
		v.open = slices.Delete(v.open, 0, 1)
	}
	v.open = append(v.open, c)
}
