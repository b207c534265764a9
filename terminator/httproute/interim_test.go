// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// A client of HTTP/2 that is strict, as curl's library is, takes a response for
// malformed whose hints speak of a connection (RFC 9113 section 8.2.2).
func TestInterimResponsesSayNothingOfTheBackendsConnection(t *testing.T) {
	curl := program(t, "curl")
	a := rawBackend(t, func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"+
			"Proxy-Connection: keep-alive\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\nTE: gzip\r\nTrailer: X-Sum\r\n\r\n"+
			"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	})
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": a}})
	for version, url := range map[string]string{"HTTP/1.1": g.plain.URL, "HTTP/2": g.tls.URL} {
		out, err := exec.CommandContext(t.Context(), curl, "--silent", "--show-error", "--insecure", "--max-time", "10", "--include", url).CombinedOutput()
		hints, rest, _ := strings.Cut(string(out), "\r\n\r\n")
		status, fields, _ := strings.Cut(hints, "\r\n")
		if err != nil || !strings.HasPrefix(status, version+" 103") || !strings.EqualFold(fields, "Link: </style.css>") || !strings.HasSuffix(rest, "\r\n\r\nhello") {
			t.Errorf("%s: %v, got %q", version, err, out)
		}
	}
}
