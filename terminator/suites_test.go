// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"testing"
)

// TestSuitesOfTLS12 offers one cipher suite at a time: every one that crypto/tls
// knows for TLS 1.2.
func TestSuitesOfTLS12(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "ecdsa", "a.example"), backend(t, echo))
	snap.Certificates = append(snap.Certificates, certificateWith(t, "rsa", rsaKey(), "a.example"))
	snap.Listeners[0].TLS.Certificates = append(snap.Listeners[0].TLS.Certificates, "rsa")
	run(t, &Server{}, snap)
	served := 0
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			continue
		}
		c := client("a.example")
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{s.ID}
		raw, err := net.Dial("tcp", address(port))
		if err != nil {
			t.Fatal(err)
		}
		err = tls.Client(raw, c).Handshake()
		raw.Close()
		want := strings.Contains(s.Name, "_ECDHE_") && (strings.Contains(s.Name, "_GCM_") || strings.Contains(s.Name, "_POLY1305_"))
		if (err == nil) != want {
			t.Errorf("%s: %v, want it served: %t", s.Name, err, want)
		}
		if err == nil {
			served++
		}
	}
	if served != 6 {
		t.Errorf("%d are served, want 6", served)
	}
}
