// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-gateway/sluice/agent/config"
)

// NamedCertificate is what clients of a server name are shown.
type NamedCertificate struct {
	// SNI is the server name. "*.name" stands for one label before name, "" for
	// every other name that the listener takes.
	SNI       string       `json:"sni,omitempty"`
	Listener  string       `json:"listener"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Port      uint16       `json:"port"`
	// Certificate names what clients of today get, Legacy what those get that
	// know TLS 1.2 and RSA only. "" is none: their handshake fails.
	Certificate string `json:"certificate"`
	Legacy      string `json:"legacy,omitempty"`
}

// Certificates tells, for each name of a certificate that is served, what its
// clients are shown; for one name when it is not "". It asks what serves
// connections.
func (s *Server) Certificates(name string) []NamedCertificate {
	s.init()
	return s.snapshot.Load().named(name)
}

// Certificates is [Server.Certificates] where a snapshot is served, which must
// be sorted and valid.
func Certificates(snap *config.Snapshot, name string) []NamedCertificate {
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.compile(snap, &state{}).named(name)
}

// anyLabel stands for the label that a wildcard does.
const anyLabel = "any-label"

func (st *state) named(name string) []NamedCertificate {
	out := []NamedCertificate{}
	for _, key := range slices.Sorted(maps.Keys(st.listeners)) {
		l := st.listeners[key]
		if l.forL4 == nil {
			continue
		}
		if name != "" {
			out = append(out, st.namedBy(l, name, normalName(name))...)
			continue
		}
		for _, n := range st.namesOf(l) {
			asked := n
			if suffix, ok := strings.CutPrefix(n, "*"); ok {
				asked = anyLabel + suffix
			}
			out = append(out, st.namedBy(l, n, asked)...)
		}
	}
	return out
}

// namesOf are the names of a listener and of its certificates, most specific
// first.
func (st *state) namesOf(l *listener) []string {
	all := []string{l.config.Hostname}
	for _, c := range l.config.TLS.Certificates {
		if c := st.certificates[c]; c != nil {
			all = append(all, c.names...)
		}
	}
	slices.SortFunc(all, config.CompareHostnames)
	return slices.Compact(all)
}

// namedBy tells what a name gets, nothing where another listener takes it.
func (st *state) namedBy(l *listener, sni, asked string) []NamedCertificate {
	p := st.ports[l.sockets[0]]
	if d := p.decide(asked); d.listener != l {
		return nil
	}
	n := NamedCertificate{SNI: sni, Listener: l.config.Name, Addresses: l.config.Addresses, Port: l.config.Port,
		Certificate: st.shownTo(l, today(asked))}
	if l.forL4.MinVersion < tls.VersionTLS13 {
		n.Legacy = st.shownTo(l, legacy(asked))
	}
	return []NamedCertificate{n}
}

// shownTo names the certificate for a client that can verify it, else "".
func (st *state) shownTo(l *listener, hello *tls.ClientHelloInfo) string {
	chosen, err := l.forL4.GetCertificate(hello)
	unnamed := *hello
	unnamed.ServerName = ""
	if err != nil || unnamed.SupportsCertificate(chosen) != nil {
		return ""
	}
	for _, n := range l.config.TLS.Certificates {
		if c := st.certificates[n]; c != nil && bytes.Equal(c.tls.Certificate[0], chosen.Certificate[0]) {
			return n
		}
	}
	return ""
}

// today is what a client of today offers.
func today(name string) *tls.ClientHelloInfo {
	h := legacy(name)
	h.SupportedVersions = []uint16{tls.VersionTLS13, tls.VersionTLS12}
	h.SignatureSchemes = append(h.SignatureSchemes, tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384, tls.ECDSAWithP521AndSHA512, tls.Ed25519)
	h.CipherSuites = append(h.CipherSuites, tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)
	return h
}

// legacy is what a client offers that knows neither TLS 1.3 nor ECDSA.
func legacy(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS12},
		CipherSuites:     []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
		SignatureSchemes: []tls.SignatureScheme{tls.PSSWithSHA256, tls.PSSWithSHA384, tls.PKCS1WithSHA256, tls.PKCS1WithSHA384},
		SupportedCurves:  []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521}, SupportedPoints: []uint8{0}}
}
