// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/agent/config"
)

// TestRequestsMustPassThePresentCheckOfClients: a connection with HTTP lasts for as
// long as its client likes, and its requests are of the present snapshot. One that
// began when nobody was asked for a certificate, or by other CAs, is no way around.
func TestRequestsMustPassThePresentCheckOfClients(t *testing.T) {
	plain, secure := freePort(t), freePort(t)
	server, wa := certificateFor(t, "c", "a.example"), web(t, "wa")
	stranger := newAuthority("other CA")
	other := config.Authority{Name: "other", Bundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: stranger.cert.Raw})}
	serving := func(v *config.ClientValidation) *config.Snapshot {
		return &config.Snapshot{
			Listeners: []config.Listener{{Name: "l", Hostname: "a.example", Addresses: loopback, Port: secure, Protocol: config.HTTPS,
				HTTP: []config.HTTPHost{host("a.example", "wa")}, TLS: &config.ListenerTLS{Certificates: []string{"c"}, ClientValidation: v}}},
			Backends:     []config.Backend{wa},
			Certificates: []config.Certificate{server},
			Authorities:  []config.Authority{testAuthority(), other},
		}
	}
	required := func(names ...string) *config.ClientValidation { return &config.ClientValidation{Authorities: names} }
	optional := &config.ClientValidation{Authorities: []string{"ca"}, Optional: true}
	alice, mallory := pair(t, issued(t, "alice", testCA(), func(*x509.Certificate) {})), pair(t, issued(t, "mallory", stranger, func(*x509.Certificate) {}))
	const served, refused = "200 wa /", "421 the listener asks for a client certificate that this connection began without"
	g := run(t, &Server{}, serving(nil))
	for _, tt := range []struct {
		name      string
		cert      *tls.Certificate
		then, now *config.ClientValidation
		want      string
	}{
		{"nobody was asked", nil, nil, required("ca"), refused},
		{"nobody was asked, nor must show one", nil, nil, optional, served},
		{"none was shown", nil, optional, required("ca"), refused},
		{"one was shown", &alice, optional, required("ca"), served},
		{"a bad one was shown", &mallory, optional, required("ca"), refused},
		{"a CA more", &alice, required("ca"), required("ca", "other"), served},
		{"the CA is gone", &alice, required("ca", "other"), required("other"), refused},
		{"another CA is gone", &alice, required("ca", "other"), required("ca"), served},
		{"nobody is asked any more", &alice, required("ca"), nil, served},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(tt.name+map[bool]string{false: ", HTTP/1.1", true: ", HTTP/2"}[h2], func(t *testing.T) {
				c := browser(t, plain, secure, h2)
				defer c.CloseIdleConnections()
				c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if tt.cert == nil {
						return &tls.Certificate{}, nil
					}
					return tt.cert, nil
				}
				g.apply(serving(tt.then))
				protocol := map[bool]string{false: " HTTP/1", true: " HTTP/2"}[h2]
				if got := get(t, c, "https://a.example/"); got != "200"+protocol+" wa /" {
					t.Fatal(got)
				}
				g.apply(serving(tt.now))
				for range 2 {
					reused := false
					req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
						GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}), "GET", "https://a.example/", nil)
					got, err := reply(c, req)
					if err != nil || got != tt.want || !reused {
						t.Fatalf("got %q, %v, on the same connection: %v; want %q", got, err, reused, tt.want)
					}
					if tt.want == refused {
						break // and the connection has ended
					}
				}
				if tt.want == refused {
					eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
				}
			})
		}
	}
}

// reply is the status and the body of a response.
func reply(c *http.Client, r *http.Request) (string, error) {
	resp, err := c.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body))), err
}
