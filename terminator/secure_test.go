// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"encoding/pem"
	"net"
	"testing"

	"github.com/sluice-gateway/sluice/agent/config"
)

// secureBackend is backend with TLS. Closing without CloseWrite is an end in
// order, as it is there.
func secureBackend(t testing.TB, c *tls.Config, handle func(c half)) config.Endpoint {
	t.Helper()
	return server(t, func(tcp *net.TCPConn) {
		conn := tls.Server(strictConn{tcp}, c)
		defer conn.Close()
		if conn.Handshake() == nil {
			handle(conn)
		}
	})
}

// backendConfig is the TLS configuration of a backend.
func backendConfig(t testing.TB, names ...string) *tls.Config {
	t.Helper()
	return &tls.Config{Certificates: []tls.Certificate{pair(t, certificateFor(t, "backend", names...))}}
}

// testAuthority is the CA of the tests.
func testAuthority() config.Authority {
	return config.Authority{Name: "ca", Bundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testCA().cert.Raw})}
}

// reencrypt makes the backend of a simple snapshot one with TLS.
func reencrypt(snap *config.Snapshot) *config.Snapshot {
	snap.Backends[0].TLS = &config.BackendTLS{Hostname: "backend.example", Authorities: []string{"ca"}}
	snap.Authorities = []config.Authority{testAuthority()}
	return snap
}

// secured is a backend with TLS that does what another one does without. An
// endpoint where nothing listens is as good with TLS.
func secured(t testing.TB, plain config.Endpoint, version uint16) config.Endpoint {
	t.Helper()
	handle, ok := handlers.Load(plain)
	if !ok {
		return plain
	}
	c := backendConfig(t, "backend.example")
	c.MaxVersion = version
	return secureBackend(t, c, handle.(func(half)))
}
