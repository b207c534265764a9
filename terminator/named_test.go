// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// TestNamesGetTheCertificatesThatAreListed asks for each name that is listed, as
// a client of today and as one that knows RSA only.
func TestNamesGetTheCertificatesThatAreListed(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t, rand.New(rand.NewPCG(seed, 0)))
	var g *gateway
	seen := 0
	for n := 0; n < 10 || seen < 20 && n < 200; n++ {
		snap := w.snapshot()
		for i := range snap.Listeners {
			// Without a route there is no handshake.
			if l := &snap.Listeners[i]; l.Port == w.tls && l.NotServed == "" && !l.TLS.Passthrough {
				l.L4 = []config.HostRoute{{Route: "every"}}
			}
		}
		snap.Routes = append(snap.Routes, config.Route{Name: "every", Backends: []config.BackendRef{{Backend: w.backends["plain"][0].Name, Weight: 1}}})
		snap.Sort()
		if g == nil {
			g = run(t, &Server{}, snap)
		} else {
			g.apply(snap)
		}
		for _, c := range g.s.Certificates("") {
			sni := strings.Replace(c.SNI, "*", anyLabel, 1)
			if got := w.shown(snap, &tls.Config{ServerName: sni}); got != c.Certificate {
				t.Errorf("%+v: a client of today gets %q", c, got)
			}
			old := &tls.Config{ServerName: sni, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
			if got := w.shown(snap, old); got != c.Legacy {
				t.Errorf("%+v: a client that knows RSA only gets %q", c, got)
			}
			if one := g.s.Certificates(sni); sni != "" && (len(one) != 1 || one[0].Certificate != c.Certificate || one[0].Listener != c.Listener) {
				t.Errorf("asked for %q alone: %+v; among all: %+v", sni, one, c)
			}
			seen++
		}
	}
	if seen < 20 {
		t.Errorf("%d names: the cases are too few", seen)
	}
}

// shown names the certificate that a client gets, however the handshake ends.
func (w *world) shown(snap *config.Snapshot, c *tls.Config) (name string) {
	raw, err := net.Dial("tcp", address(w.tls))
	if err != nil {
		w.t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	c.InsecureSkipVerify = true
	c.VerifyPeerCertificate = func(chain [][]byte, _ [][]*x509.Certificate) error {
		for _, known := range snap.Certificates {
			if block, _ := pem.Decode(known.Chain); bytes.Equal(block.Bytes, chain[0]) {
				name = known.Name
			}
		}
		return nil
	}
	_ = tls.Client(raw, c).Handshake()
	return name
}
