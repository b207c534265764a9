// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

func TestCertificateIsChosenByNameThenByWhatTheClientCanVerify(t *testing.T) {
	port := freePort(t)
	ec := certKey(t)
	certs := []config.Certificate{
		certificateWith(t, "rsa-any", rsaKey(), "elsewhere.example"),
		certificateWith(t, "rsa-wild", rsaKey(), "*.a.example"),
		certificateWith(t, "ec-wild", ec, "*.a.example"),
		certificateWith(t, "rsa-exact", rsaKey(), "x.a.example"),
		certificateWith(t, "ec-exact", ec, "x.a.example"),
		certificateWith(t, "rsa-only", rsaKey(), "r.a.example"),
		certificateWith(t, "ec-only", ec, "E.a.example"),
	}
	snap := simple(port, certs[0], backend(t, echo))
	snap.Certificates = certs
	snap.Listeners[0].TLS.Certificates = nil
	for _, c := range certs {
		snap.Listeners[0].TLS.Certificates = append(snap.Listeners[0].TLS.Certificates, c.Name)
	}
	run(t, &Server{}, snap)
	both, rsaOnly, ecOnly := []uint16(nil), []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	for _, tt := range []struct {
		sni   string
		offer []uint16
		want  string
	}{
		{"x.a.example", both, "ec-exact"},
		{"x.a.example", rsaOnly, "rsa-exact"},
		{"x.a.example", ecOnly, "ec-exact"},
		{"y.a.example", both, "ec-wild"},
		{"y.a.example", rsaOnly, "rsa-wild"},
		{"r.a.example", both, "rsa-only"},
		{"r.a.example", ecOnly, "ec-wild"},
		{"e.a.example", rsaOnly, "rsa-wild"},
		{"e.a.example", both, "ec-only"},
		{"z.y.a.example", both, "ec-wild"}, // one label only under a wildcard: this is the first ECDSA one
		{"z.y.a.example", rsaOnly, "rsa-any"},
		{"", both, "ec-wild"},
	} {
		t.Run(fmt.Sprint(tt.sni, tt.offer), func(t *testing.T) {
			c := &tls.Config{InsecureSkipVerify: true, ServerName: tt.sni, CipherSuites: tt.offer}
			if tt.offer != nil {
				c.MaxVersion = tls.VersionTLS12
			}
			conn := dialTLS(t, port, c)
			defer conn.Close()
			if got := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestVersion1CertificateServes makes the certificate that "openssl x509 -req"
// makes without extensions: version 1, serial 0, no SAN.
func TestVersion1CertificateServes(t *testing.T) {
	port := freePort(t)
	cert := certificateWith(t, "www.example.com", rsaKey())
	block, _ := pem.Decode(cert.Chain)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	name := asn1.RawValue{FullBytes: parsed.RawSubject}
	type validity struct{ NotBefore, NotAfter time.Time }
	algorithm := algorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}
	tbs, err := asn1.Marshal(struct {
		Serial    *big.Int
		Signature algorithmIdentifier
		Issuer    asn1.RawValue
		Validity  validity
		Subject   asn1.RawValue
		Key       asn1.RawValue
	}{big.NewInt(0), algorithm, name, validity{parsed.NotBefore, parsed.NotAfter}, name, asn1.RawValue{FullBytes: parsed.RawSubjectPublicKeyInfo}})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := signPKCS1(tbs)
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm algorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		t.Fatal(err)
	}
	cert.Chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	snap := simple(port, cert, backend(t, echo))
	snap.Listeners[0].Hostname = "www.example.com"
	run(t, &Server{}, snap)
	conn := dialTLS(t, port, &tls.Config{InsecureSkipVerify: true, ServerName: "www.example.com"})
	if got := conn.ConnectionState().PeerCertificates[0]; got.Version != 1 || len(got.DNSNames) != 0 {
		t.Errorf("version %d, names %v", got.Version, got.DNSNames)
	}
	roundTrip(t, conn)
}

func TestBadCertificateDisturbsItsListenerOnly(t *testing.T) {
	a, b := freePort(t), freePort(t)
	snap := simple(a, certificateFor(t, "good", "a.example"), backend(t, echo))
	bad := certificateFor(t, "bad", "b.example")
	bad.Key = []byte(certificateFor(t, "x").Key)
	snap.Certificates = append(snap.Certificates, bad)
	l := snap.Listeners[0]
	l.Name, l.Port, l.TLS = "m", b, &config.ListenerTLS{Certificates: []string{"bad"}}
	both := snap.Listeners[0]
	both.Name, both.Port, both.TLS = "n", freePort(t), &config.ListenerTLS{Certificates: []string{"bad", "good"}}
	snap.Listeners = append(snap.Listeners, l, both)
	snap.Sort()
	s := &Server{}
	g := run(t, s, &config.Snapshot{})
	report := g.s.Apply(snap)
	if report.Listeners["l"] != "" || !strings.Contains(report.Listeners["m"], "bad") || !strings.Contains(report.Listeners["n"], "bad") {
		t.Errorf("report: %q", report.Listeners)
	}
	roundTrip(t, dialTLS(t, a, client("a.example")))
	roundTrip(t, dialTLS(t, both.Port, client("a.example")))
	if got := greeting(t, b, "b.example"); got != "internal error" {
		t.Errorf("listener without certificate: %s", got)
	}
}

// TestRotationNeverBreaksAHandshake changes the certificate 1,000 times while
// clients connect all the time. A chain with the key of another one would fail
// the client's check of the signature.
func TestRotationNeverBreaksAHandshake(t *testing.T) {
	const rotations, clients = 1000, 4
	port := freePort(t)
	to := backend(t, echo)
	snaps := make([]*config.Snapshot, 20)
	for i := range snaps {
		snaps[i] = simple(port, certificateFor(t, "c", "a.example", fmt.Sprintf("v%d.example", i)), to)
	}
	g := run(t, &Server{}, snaps[0])
	live := dialTLS(t, port, client("a.example"))
	var stop atomic.Bool
	var handshakes atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for !stop.Load() {
				conn, err := tls.Dial("tcp", address(port), client("a.example"))
				if err != nil {
					t.Errorf("after %d handshakes: %v", handshakes.Load(), err)
					return
				}
				handshakes.Add(1)
				conn.Close()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	for i := range rotations {
		g.apply(snaps[i%len(snaps)])
		time.Sleep(time.Millisecond) // let some handshakes begin with this one
	}
	for seen := handshakes.Load(); handshakes.Load() < seen+10 && !t.Failed(); {
		time.Sleep(time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	roundTrip(t, live)
	if got := dialTLS(t, port, client("a.example")).ConnectionState().PeerCertificates[0].DNSNames[1]; got != fmt.Sprintf("v%d.example", (rotations-1)%len(snaps)) {
		t.Errorf("a new connection sees the certificate %s", got)
	}
	t.Logf("%d handshakes", handshakes.Load())
}

type algorithmIdentifier struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue
}

func signPKCS1(message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return rsa.SignPKCS1v15(rand.Reader, rsaKey(), crypto.SHA256, sum[:])
}
