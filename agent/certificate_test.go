// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
)

// pair is a certificate that expires in so many days, with its key, in PEM.
func pair(t *testing.T, name string, days int) (chain []byte, key config.Secret) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().AddDate(-10, 0, 0), NotAfter: time.Now().AddDate(0, 0, days)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// Whatever a connection depends on expires one day, not only the certificate
// that clients see.
func TestTheExpiryOfEveryCertificateIsTold(t *testing.T) {
	s := &config.Snapshot{}
	expires := map[string]time.Time{}
	for i, name := range []string{"a/both", "a/server"} {
		chain, key := pair(t, name, 10+i)
		s.Certificates = append(s.Certificates, config.Certificate{Name: name, Chain: chain, Key: key})
		expires[name] = parse(chain)[0].NotAfter
	}
	for i, name := range []string{"a/backends", "a/clients", "a/old"} {
		first, _ := pair(t, "first", -30)
		last, _ := pair(t, "last", 20-15*i) // the last one 10 days ago
		s.Authorities = append(s.Authorities, config.Authority{Name: name, Bundle: slices.Concat(first, last, first)})
		expires[name] = parse(last)[0].NotAfter
	}
	web := func(name string) config.Listener {
		l := tcpListener(t)
		l.Name, l.Protocol, l.L4 = "a/gw/"+name, config.HTTPS, nil
		l.TLS = &config.ListenerTLS{Certificates: []string{"a/server"}, ALPN: []string{"http/1.1"}}
		return l
	}
	first, second := web("first"), web("second")
	first.TLS.ClientValidation = &config.ClientValidation{Authorities: []string{"a/clients", "a/old"}}
	second.TLS.Certificates = []string{"a/both"}
	second.HTTP = []config.HTTPHost{{Rules: []config.HTTPRule{{Backends: []config.HTTPBackendRef{{BackendRef: config.BackendRef{Backend: "a/b:1", Weight: 1}}}}}}}
	second.BackendCertificate = "a/both"
	s.Backends = []config.Backend{{Name: "a/b:1", TLS: &config.BackendTLS{Hostname: "b.example.com", Authorities: []string{"a/backends"}}}}
	s.Listeners = []config.Listener{first, second}
	s.Sort()
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	a, stop := running(t, io.Discard)
	defer stop()
	a.Apply(s)

	want := map[string][]string{"a/both": {UseClient, UseServer}, "a/server": {UseServer}, "a/backends": {UseBackendCA}, "a/clients": {UseClientCA}, "a/old": {UseClientCA}}
	got := map[string][]string{}
	for _, c := range a.Status().Certificates {
		got[c.Name] = c.Uses
		if !c.NotAfter.Equal(expires[c.Name]) {
			t.Errorf("%s expires %s, want %s", c.Name, c.NotAfter, expires[c.Name])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("uses (-want +got):\n%s", diff)
	}
	families, err := a.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	metrics := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "sluice_certificate_expiry_timestamp_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			metrics[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetGauge().GetValue()
		}
	}
	values := map[string]float64{}
	for name, of := range want {
		for _, use := range of {
			values[name+" "+use] = float64(expires[name].Unix())
		}
	}
	if diff := cmp.Diff(values, metrics); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	old := fmt.Sprintf("the last CA certificate of a/old (CN=last) expired %s; replace it", expires["a/old"].Format(time.RFC3339))
	if problems := a.Problems(time.Now()); !slices.Equal(problems, []string{old}) {
		t.Errorf("problems %s, want only %q", strings.Join(problems, "\n"), old)
	}
}
