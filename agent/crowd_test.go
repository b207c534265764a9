// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// A body that never comes keeps a connection open, whatever was answered.
func TestACrowdAtTheMetricsPortIsSentAwayAndKeepsNobodyOut(t *testing.T) {
	a, _ := running(t, io.Discard)
	crowd := make([]net.Conn, 400)
	for i := range crowd {
		c, err := net.Dial("tcp", a.metrics.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
		if code, _ := fetch(t, web(t), "http://"+a.metrics.Addr().String()+"/healthz"); code != 200 {
			t.Fatalf("a probe beside %d connections gets %d", i+1, code)
		}
		crowd[i] = c
	}
	const enough = 100 // for those who may ask
	for i, c := range crowd[:len(crowd)-enough] {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("connection %d of %d is held open", i+1, len(crowd))
		}
	}
}
