// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
)

func hostPort(e config.Endpoint) string { return net.JoinHostPort(e.Host, itoa(e.Port)) }

func TestTrafficTellsWhatWentWhichWay(t *testing.T) {
	port := freePort(t)
	works, gone := backend(t, echo), refusing(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), works)
	g := run(t, &Server{}, snap)
	talk := func() { // 5 bytes each way
		c := dialTLS(t, port, client("a.example"))
		roundTrip(t, c)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := strict(c); err != nil {
			t.Fatal(err)
		}
	}
	idle := Flow{Listener: "l", Route: "r", Backend: "b", Endpoint: hostPort(works)}
	if diff := cmp.Diff([]Flow{idle}, g.s.Traffic(1)); diff != "" {
		t.Errorf("before a connection (-want +got):\n%s", diff)
	}
	if got := g.s.Traffic(0); len(got) != 0 {
		t.Errorf("more than wanted of what was never used: %+v", got)
	}
	talk()
	talk()
	open := dialTLS(t, port, client("a.example"))
	roundTrip(t, open)
	answer(t, port, []byte("GET / HTTP/1.0\r\n\r\n"))
	used := idle
	used.Open, used.Connections, used.Bytes = 1, 3, map[string]Bytes{"relay": {Up: 15, Down: 15}}
	eventually(t, "three connections, and one that is no TLS", func() bool {
		return cmp.Equal([]Flow{{Connections: 1, Bytes: map[string]Bytes{}}, used}, g.s.Traffic(0))
	})

	// An endpoint that fails shows up, and does not change what is known of others.
	snap.Backends[0].Endpoints = []config.Endpoint{gone}
	g.apply(snap)
	c, err := net.Dial("tcp", address(port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = tls.Client(c, client("a.example")).Handshake() // whether it ends before the reset is up to the kernel
	g.waitResult(t, "connect_failed")
	found := false
	for _, f := range g.s.Traffic(10) {
		found = found || f.Endpoint == hostPort(gone) && f.Failed && f.Connections == 0
	}
	if !found {
		t.Errorf("the endpoint that failed is not there: %+v", g.s.Traffic(10))
	}

	// What is no longer served is forgotten with its last connection.
	open.NetConn().Close()
	eventually(t, "no connection", func() bool { return len(g.s.Connections()) == 0 })
	g.apply(snap)
	for _, f := range g.s.Traffic(0) {
		if f.Endpoint == hostPort(works) {
			t.Errorf("still there: %+v", f)
		}
	}
	snap.Listeners, snap.Routes, snap.Backends = nil, nil, nil
	g.apply(snap)
	if diff := cmp.Diff([]Flow{{Connections: 1, Bytes: map[string]Bytes{}}}, g.s.Traffic(10)); diff != "" {
		t.Errorf("without a listener (-want +got):\n%s", diff)
	}
}

// Ways are those of HTTP, too, and of routes that lead nowhere.
func TestTrafficHasAllWays(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	g, snap := webGateway(t, &Server{}, plain, secure)
	get(t, browser(t, plain, secure, false), "http://a.example/")
	snap.Backends[2].Endpoints = nil // of wb
	g.apply(snap)
	got := map[string]bool{}
	for _, f := range g.s.Traffic(100) {
		got[f.Listener+" "+f.Route+" "+f.Backend+" "+f.Endpoint] = f.Open > 0
	}
	tcp, wa := hostPort(snap.Backends[0].Endpoints[0]), hostPort(snap.Backends[1].Endpoints[0])
	want := map[string]bool{
		"http-a HTTPRoute/wa wa " + wa:  true,
		"http-b HTTPRoute/wb wb ":       false,
		"https-a HTTPRoute/wa wa " + wa: false,
		"https-b HTTPRoute/wb wb ":      false,
		"https-c tcp tcp " + tcp:        false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ways, and whether they carry something (-want +got):\n%s", diff)
	}
}
