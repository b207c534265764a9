// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"io"
	"testing"
	"time"
)

// The connection itself is not idle.
func TestABodyThatStopsEndsOnABusyConnection(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	webGateway(t, &Server{IdleTimeout: 300 * time.Millisecond}, plain, secure)
	c := browser(t, plain, secure, true)
	body, more := io.Pipe()
	defer more.Close()
	go func() { _, _ = io.WriteString(more, "x") }()
	got := make(chan string, 1)
	go func() {
		resp, err := c.Post("https://a.example/upload", "", body)
		if err != nil {
			got <- err.Error()
			return
		}
		resp.Body.Close()
		got <- resp.Status
	}()
	for {
		select {
		case status := <-got:
			if status != "408 Request Timeout" {
				t.Errorf("got %s", status)
			}
			return
		case <-time.After(20 * time.Millisecond):
			get(t, c, "https://b.example/x")
			get(t, c, "https://a.example/x")
		}
	}
}
