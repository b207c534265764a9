// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// T18 on the wire: a Secret that turned bad is told with its cure, and its last good
// certificate stays served; what is odd and valid is served; the listener beside it
// and a connection that is open notice nothing. What is said of each kind of mistake
// is held by the cases of controller/translate.
func TestABadCertificateLeavesTheLastGoodOneServed(t *testing.T) {
	count := &figures.Figures{}
	figures.Record(t, count)
	p := newPair(t)
	unchanged := p.serial(t, "beside.example.com")
	open, err := p.g.connectTo("beside.example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = open.NetConn().SetDeadline(time.Time{})
	stays := newEchoing(open)

	for _, m := range material(t, p) {
		t.Run(m.name, func(t *testing.T) {
			before := p.serial(t, "changing.example.com")
			p.give(t, "changing", m.chain, m.key)
			count.Faults++
			if m.says == "" {
				leaf := first(t, m.chain).SerialNumber.String()
				p.waitFor(t, leaf)
			} else {
				waitFor(t, func() string {
					s := p.g.status()
					if strings.Contains(s, "InvalidCertificateRef") && strings.Contains(s, m.says) && strings.Contains(s, "its last good certificate is still served") {
						return ""
					}
					return "the status does not say " + m.says
				})
				if after := p.serial(t, "changing.example.com"); after != before {
					t.Errorf("certificate %s is served, want %s", after, before)
				}
			}
			if p.serial(t, "beside.example.com") != unchanged {
				t.Error("the listener beside it has another certificate")
			}
			if err := stays.exchange(1 << 10); err != nil {
				t.Errorf("a connection to the listener beside it: %v", err)
			}
			count.Connections, count.Bytes = p.handshakes, count.Bytes+2<<10
		})
	}
	if err := stays.finish(); err != nil {
		t.Error(err)
	}
	count.What = "Secrets with bad or odd certificates and keys"
}

// T19: what is not valid now, or not for servers, is served all the same, as
// clients that do not check would have it. Those that check refuse it, the status
// says why, and when it expires is a metric.
func TestACertificateThatClientsRefuseIsServedWithAWarning(t *testing.T) {
	count := &figures.Figures{What: "certificates that expired, are not valid yet, or are for clients"}
	figures.Record(t, count)
	p := newPair(t)
	for name, c := range map[string]struct {
		change  func(*x509.Certificate)
		says    string
		refused x509.InvalidReason
	}{
		"expired": {func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(-48*time.Hour), c.NotAfter.Add(-48*time.Hour)
		},
			"the certificate expired on", x509.Expired},
		"not valid yet": {func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(48*time.Hour), c.NotAfter.Add(48*time.Hour)
		},
			"the certificate is not valid before", x509.Expired},
		"for clients": {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
			"the certificate is not for servers", x509.IncompatibleUsage},
	} {
		t.Run(name, func(t *testing.T) {
			chain := p.certificate(t, c.change)
			leaf := first(t, chain)
			p.give(t, "changing", chain, p.pkcs8(t))
			count.Faults++
			p.waitFor(t, leaf.SerialNumber.String())
			roots := x509.NewCertPool()
			roots.AddCert(leaf)
			_, err := tls.Dial("tcp", "127.0.0.1:"+p.g.port, &tls.Config{ServerName: "changing.example.com", RootCAs: roots})
			if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || invalid.Reason != c.refused {
				t.Errorf("a client that checks says: %v", err)
			}
			out, _ := exec.Command("sluice", "status", "-admin", p.g.admin()).CombinedOutput()
			if !strings.Contains(string(out), c.says) {
				t.Errorf("the status does not say %q:\n%s", c.says, out)
			}
			if got := p.g.scrape(p.metrics)[`sluice_certificate_expiry_timestamp_seconds{certificate="default/changing",use="server"}`]; got != float64(leaf.NotAfter.Unix()) {
				t.Errorf("it expires at %v, want %v", got, leaf.NotAfter.Unix())
			}
			count.Connections = p.handshakes
		})
	}
}

// oddSecret is what a Secret holds, and what its listener says of it: "" that it is
// served.
type oddSecret struct {
	name       string
	chain, key []byte
	says       string
}

func material(t *testing.T, p *pair) []oddSecret {
	t.Helper()
	chain, key := p.certificate(t), p.pkcs8(t)
	block, _ := pem.Decode(chain)
	sec1, err := x509.MarshalECPrivateKey(p.key)
	if err != nil {
		t.Fatal(err)
	}
	many := p.certificate(t, func(c *x509.Certificate) {
		for i := range 1000 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("n%d.example.com", i))
		}
	})
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, smallKey := rsaKey(t, 512)
	large, largeKey := rsaKey(t, 16384)
	return []oddSecret{
		{"mismatch", chain, pkcs8(t, other), "tls.key does not belong to the certificate in tls.crt"},
		{"empty chain", nil, key, "tls.crt is missing or empty"},
		{"empty key", chain, nil, "tls.key is missing or empty"},
		{"a chain in DER", block.Bytes, key, "tls.crt is DER, not PEM"},
		{"a key in DER", chain, sec1, "tls.key is DER, not PEM"},
		{"an encrypted key", chain, encode("ENCRYPTED PRIVATE KEY", sec1), "tls.key is encrypted"},
		{"P-224", p.certificateOf(t, &p224.PublicKey), pkcs8(t, p224), "tls.key is ECDSA P-224"},
		{"RSA 512", p.certificateOf(t, small), smallKey, "tls.key is RSA with 512 bits"},
		{"RSA 16384", p.certificateOf(t, large), largeKey, "certificate 1 is RSA with 16384 bits"},
		{"a chain of 1 MiB", bytes.Repeat(chain, 1<<20/len(chain)+1), key, "more than 64 KiB"},
		{"NUL", append([]byte("\x00"), chain...), key, "tls.crt contains NUL bytes"},
		{"NUL in the key", chain, append(bytes.Clone(key), 0), "tls.key contains NUL bytes"},
		{"trailing junk that begins a block", append(bytes.Clone(chain), "-----BEGIN CERT"...), key, "block 2 is damaged or cut off"},
		{"1,000 names", many, key, ""},
		{"blocks twice", bytes.Repeat(p.certificate(t), 2), bytes.Repeat(key, 2), ""},
		{"trailing junk", append(p.certificate(t), "junk\xff\n"...), append(bytes.Clone(key), "junk\n"...), ""},
	}
}

// pair is a gateway with two names, each on a listener and with a Secret of its
// own.
type pair struct {
	g          *gateway
	metrics    string
	key        *ecdsa.PrivateKey
	handshakes int64
}

func newPair(t *testing.T, flags ...string) *pair {
	t.Helper()
	p := &pair{metrics: "127.0.0.1:" + freePort(t)}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.g = launch(t, serveTCP(t, echoForever), nil, append(flags, "-splice", "off", "-metrics", p.metrics)...)
	p.give(t, "beside", p.certificate(t), p.pkcs8(t))
	p.give(t, "changing", p.certificate(t), p.pkcs8(t))
	p.g.write("names.yaml", namesObjects(p.g.port, "beside", "changing"))
	eventually(t, "both are served", func() bool {
		return talk(p.g.port, "beside.example.com") == nil && talk(p.g.port, "changing.example.com") == nil
	})
	return p
}

// give writes a Secret; data of one may be anything.
func (p *pair) give(t *testing.T, name string, chain, key []byte) {
	t.Helper()
	p.g.write(name+".yaml", fmt.Appendf(nil, "{apiVersion: v1, kind: Secret, metadata: {name: %s}, type: kubernetes.io/tls, data: {tls.crt: %q, tls.key: %q}}\n",
		name, base64.StdEncoding.EncodeToString(chain), base64.StdEncoding.EncodeToString(key)))
}

// serial is the serial number of what a name gets.
func (p *pair) serial(t *testing.T, name string) string {
	t.Helper()
	c, err := p.g.connectTo(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.handshakes++
	if err := newEchoing(c).finish(); err != nil {
		t.Fatal(err)
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// waitFor waits until a certificate is served.
func (p *pair) waitFor(t *testing.T, serial string) {
	t.Helper()
	waitFor(t, func() string {
		if p.serial(t, "changing.example.com") == serial {
			return ""
		}
		return "the certificate " + serial + " is not served"
	})
}

func (p *pair) pkcs8(t *testing.T) []byte { return pkcs8(t, p.key) }

func pkcs8(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("PRIVATE KEY", der)
}

// certificate is one of the key, for both names.
func (p *pair) certificate(t *testing.T, changes ...func(*x509.Certificate)) []byte {
	t.Helper()
	return p.certificateOf(t, &p.key.PublicKey, changes...)
}

func (p *pair) certificateOf(t *testing.T, public any, changes ...func(*x509.Certificate)) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "changing.example.com"},
		DNSNames: []string{"changing.example.com", "beside.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, change := range changes {
		change(template)
	}
	// Issued by the key itself, whatever it is for.
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: template.Subject}, public, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", der)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// first is the first certificate of a chain.
func first(t *testing.T, chain []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(chain)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rsaKey is a key of a size that crypto/rsa does not make: its numbers fit together
// where primes of half the size are quick to find, else only by their size.
func rsaKey(t *testing.T, bits int) (public *rsa.PublicKey, key []byte) {
	t.Helper()
	prime := func() *big.Int {
		if bits > 1024 {
			return new(big.Int).SetBit(big.NewInt(1), bits/2-1, 1)
		}
		p, err := rand.Prime(rand.Reader, bits/2)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one, e := big.NewInt(1), big.NewInt(65537)
	p, q := prime(), prime()
	n, p1, q1 := new(big.Int).Mul(p, q), new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
	n.SetBit(n, bits-1, 1)
	d := new(big.Int).ModInverse(e, new(big.Int).Mul(p1, q1))
	if d == nil {
		d = new(big.Int).Set(n)
	}
	qInv := new(big.Int).ModInverse(q, p)
	if qInv == nil {
		qInv = q
	}
	der, err := asn1.Marshal(struct {
		Version                    int
		N, E, D, P, Q, DP, DQ, Inv *big.Int
	}{0, n, e, d, p, q, new(big.Int).Mod(d, p1), new(big.Int).Mod(d, q1), qInv})
	if err != nil {
		t.Fatal(err)
	}
	return &rsa.PublicKey{N: n, E: 65537}, encode("RSA PRIVATE KEY", der)
}
