// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A server name may have any bytes, and as many as a ClientHello has room for. What
// is kept and shown of it is short, and does nothing to a terminal.
func TestServerNamesThatClientsMakeUpAreFitForATerminal(t *testing.T) {
	port := freePort(t)
	g := run(t, &Server{}, simple(port, certificateFor(t, "c", "a.example"), backend(t, echo)))
	for _, tt := range []struct{ name, want string }{
		{"\x1b]0;x\x07\u009b31m\n.a.example", "?]0;x??31m?.a.example"},
		{strings.Repeat("x", 10_000), strings.Repeat("x", longestText) + "…"},
	} {
		c := client(tt.name)
		c.InsecureSkipVerify = true
		conn := dialTLS(t, port, c)
		roundTrip(t, conn)
		if all := g.s.Connections(); len(all) != 1 || all[0].SNI != tt.want {
			t.Errorf("connections: %+v", all)
		}
		conn.Close()
		eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
		if all := g.records(t, "connection"); all[len(all)-1]["sni"] != tt.want {
			t.Errorf("logged: %q", all[len(all)-1]["sni"])
		}
	}
}

// HTTP/2 lets through what HTTP/1 has rules against.
func TestHostsThatClientsMakeUpAreFitForATerminal(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	g, _ := webGateway(t, &Server{}, plain, secure)
	c := client("b.example")
	c.NextProtos = []string{"h2"}
	conn := dialTLS(t, secure, c)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET\u009b"}, {":scheme", "https"}, {":path", "/"}, {":authority", "x\u009b31m.example"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	f := h2.NewFramer(conn, conn)
	_, err := io.WriteString(conn, h2.ClientPreface)
	if err := errors.Join(err, f.WriteSettings(), f.WriteHeaders(h2.HeadersFrameParam{
		StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a request", func() bool { return len(g.records(t, "request")) == 1 })
	if r := g.records(t, "request")[0]; r["host"] != "x?31m.example" || r["method"] != "GET?" {
		t.Errorf("logged: %q", r)
	}
	conn.Close()
}
