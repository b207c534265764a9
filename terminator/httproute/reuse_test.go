// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pooledBackend answers requests one after the other on each of its connections, with
// what answer returns.
func pooledBackend(t *testing.T, answer func(r *http.Request) string) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				for br := bufio.NewReader(c); ; {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					if _, err := io.WriteString(c, answer(r)); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wg.Wait() })
	return ln.Addr().String()
}

// What a backend says beyond a response belongs to nobody.
func TestWhatComesBehindAResponseIsNoOtherClients(t *testing.T) {
	log.SetOutput(io.Discard) // net/http's, of each
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for name, head := range map[string]string{
		"HEAD with a body": fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(poison)),
		"204 with a body":  fmt.Sprintf("HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n", len(poison)),
		"304 with a body":  fmt.Sprintf("HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n", len(poison)),
		"two responses":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"chunks and more":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, state{hosts: to(), endpoints: map[string]string{"a": pooledBackend(t, func(r *http.Request) string {
				if r.URL.Path == "/bad" {
					return head + poison
				}
				return "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
			})}})
			method := "GET"
			if strings.HasPrefix(name, "HEAD") {
				method = "HEAD"
			}
			var poisoned, good atomic.Int64
			var wg sync.WaitGroup
			for i := range 16 {
				wg.Go(func() {
					c := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
					defer c.CloseIdleConnections()
					for range 300 {
						m, path := method, "/bad"
						if i%2 == 0 {
							m, path = "GET", "/good"
						}
						req, _ := http.NewRequestWithContext(t.Context(), m, g.plain.URL+path, nil)
						body := []byte(nil)
						res, err := c.Do(req)
						if err == nil {
							body, err = io.ReadAll(res.Body)
							_ = res.Body.Close()
						}
						switch {
						case strings.Contains(string(body), "poison"):
							poisoned.Add(1)
						case path == "/good" && err == nil && string(body) == "fine":
							good.Add(1)
						}
					}
				})
			}
			wg.Wait()
			if n := poisoned.Load(); n > 0 || good.Load() != 8*300 {
				t.Errorf("%d clients got what was behind another one's response; %d of %d got their own", n, good.Load(), 8*300)
			}
		})
	}
}
