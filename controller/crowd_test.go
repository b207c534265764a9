// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/controller"
)

// A body that never comes keeps a connection open, whatever was answered.
func TestACrowdAtTheMetricsPortIsSentAway(t *testing.T) {
	w := newWorld(t)
	port, release, err := freeport.Take()
	w.must(err)
	t.Cleanup(release)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	c, err := controller.New(controller.Options{Config: server.Config(), Namespace: system, Identity: "crowded", Metrics: address, Log: w.logger("crowded")})
	w.must(err)
	w.runs(c)
	get := func(path string) string {
		cl := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
		r, err := cl.Get("http://" + address + path)
		if err != nil {
			return err.Error()
		}
		defer r.Body.Close()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return err.Error()
		}
		if r.StatusCode != http.StatusOK {
			return r.Status
		}
		return ""
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		w.until(path, func() string { return get(path) })
	}
	crowd := make([]net.Conn, 200)
	for i := range crowd {
		crowd[i], err = net.Dial("tcp", address)
		w.must(err)
		defer crowd[i].Close()
		_, _ = io.WriteString(crowd[i], "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
		if problem := get("/healthz"); problem != "" {
			t.Fatalf("a probe beside %d connections: %s", i+1, problem)
		}
	}
	for i, c := range crowd[:len(crowd)-100] {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d of %d is held open", i+1, len(crowd))
		}
	}
}
