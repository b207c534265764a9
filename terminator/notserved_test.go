// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/agent/config"
)

// A listener that is not served keeps its names from the wildcards of the
// port, whatever it and they speak.
func TestAListenerThatIsNotServedKeepsItsNames(t *testing.T) {
	port := freePort(t)
	snap := mixed(t, port)
	for _, l := range []config.Listener{
		{Name: "mine", Hostname: "a.example.com", Protocol: config.TLS, TLS: &config.ListenerTLS{}},
		{Name: "mine-https", Hostname: "*.b.example.com", Protocol: config.HTTPS, TLS: &config.ListenerTLS{}},
		{Name: "mine-pass", Hostname: "x.deep.example.com", Protocol: config.TLS, TLS: &config.ListenerTLS{Passthrough: true}},
		{Name: "mine-under-pass", Hostname: "x.pass.example.org", Protocol: config.TLS, TLS: &config.ListenerTLS{}},
		{Name: "mine-under-https", Hostname: "www.web.example.org", Protocol: config.TLS, TLS: &config.ListenerTLS{}},
	} {
		l.Addresses, l.Port, l.NotServed = loopback, port, "there is no certificate"
		snap.Listeners = append(snap.Listeners, l)
	}
	g := run(t, &Server{}, snap)
	const refused = "reset"
	for sni, want := range map[string]string{
		"a.example.com": refused, "x.b.example.com": refused, "x.deep.example.com": refused,
		"x.pass.example.org": refused, "www.web.example.org": refused,
		"db.example.com": "exact", "y.deep.example.com": "deep", "y.pass.example.org": "passed y.pass.example.org",
		"tcp.web.example.org": "https-l4",
	} {
		if got := greeting(t, port, sni); got != want {
			t.Errorf("SNI %q went to %q, want %q", sni, got, want)
		}
	}
	eventually(t, "the access log", func() bool { return strings.Count(g.access.String(), `"result":"not_served"`) == 5 })

	// When it is mended its connections are its own, and nothing else changes.
	for i := range snap.Listeners {
		if l := &snap.Listeners[i]; l.Name == "mine" {
			l.NotServed, l.TLS, l.L4 = "", &config.ListenerTLS{Certificates: []string{"cert-db.example.com"}}, []config.HostRoute{{Route: "exact"}}
		}
	}
	g.apply(snap)
	if got := greeting(t, port, "a.example.com"); got != "exact" {
		t.Errorf("after it was mended: %q", got)
	}
}

func TestRequestsForAListenerThatIsNotServedGoNowhere(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	g, snap := webGateway(t, &Server{}, plain, secure)
	c := browser(t, plain, secure, false)
	if got := get(t, c, "http://b.example/"); got != "200 HTTP/1 wb /" {
		t.Errorf("before: %s", got)
	}
	changed := *snap
	changed.Listeners = append([]config.Listener{
		{Name: "a-mine", Hostname: "b.example", Addresses: loopback, Port: plain, Protocol: config.HTTP, NotServed: "mistake"},
		{Name: "a-mine-https", Hostname: "b.example", Addresses: loopback, Port: secure, Protocol: config.HTTPS, TLS: &config.ListenerTLS{}, NotServed: "mistake"},
	}, snap.Listeners...)
	g.apply(&changed)
	if got := get(t, c, "http://b.example/"); !strings.HasPrefix(got, "404") {
		t.Errorf("plain: %s, want 404", got)
	}
	if got := get(t, c, "http://a.example/"); got != "200 HTTP/1 wa /" {
		t.Errorf("another name: %s", got)
	}
	// The certificate of *.example is good for b.example: a client that takes
	// its connection for that is told to make another one.
	req, err := http.NewRequest(http.MethodGet, "https://c2.example/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "b.example"
	c.Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("by another connection: status %d, want 421", resp.StatusCode)
	}
	if got := greeting(t, secure, "b.example"); got != "reset" {
		t.Errorf("TLS: %q", got)
	}
}
