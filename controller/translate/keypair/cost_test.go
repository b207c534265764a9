// SPDX-License-Identifier: Apache-2.0

package keypair

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"runtime"
	"testing"
	"time"
)

// worst are the inputs that cost most: as much as Parse reads, and more than that.
func worst(t testing.TB) map[string]func() error {
	t.Helper()
	k, key := newKey(t)
	named := func(names int) []byte {
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "www.example.com"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
		for i := range names {
			template.DNSNames = append(template.DNSNames, fmt.Sprintf("host-%04d.some.example.com", i))
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	one, thousand := named(1), named(1000)
	chain := bytes.Clone(thousand)
	for len(chain)+len(one) <= maxChain && bytes.Count(chain, []byte("-----BEGIN")) < maxCertificates {
		chain = append(chain, one...)
	}
	comments := append(bytes.Clone(chain), bytes.Repeat([]byte("#\r\n"), (maxChain-len(chain))/3)...)
	parse := func(chain, key []byte) func() error {
		return func() error { _, err := Parse(chain, key); return err }
	}
	return map[string]func() error{
		"1,000 names":                                 parse(thousand, key),
		"10 certificates, 1,000 names":                parse(chain, key),
		"the same in 64 KiB of lines":                 parse(comments, key),
		"a chain of 1 MiB":                            parse(bytes.Repeat(thousand, 1<<20/len(thousand)), key),
		"a chain of 64 KiB that is an RSA key in DER": parse(largeRSA(t, maxChain), key),
		"a key of 16 KiB that is one":                 parse(one, largeRSA(t, maxKey)),
		"a key of as many bytes as are read":          parse(one, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: largeRSA(t, maxKeyBytes)})),
		"CAs in 512 KiB": func() error {
			_, err := ParseBundle("ca.crt", bytes.Repeat(thousand, maxBundle/len(thousand)))
			return err
		},
	}
}

// largeRSA is a private key in so many bytes of DER, but for the primes: nobody
// finds any that are so large.
func largeRSA(t testing.TB, size int) []byte {
	t.Helper()
	one, e := big.NewInt(1), big.NewInt(65537)
	half := uint(size * 8 / 10)
	odd := func() *big.Int {
		p, err := rand.Int(rand.Reader, new(big.Int).Lsh(one, half-2))
		if err != nil {
			t.Fatal(err)
		}
		return p.SetBit(p, int(half-1), 1).SetBit(p, int(half-2), 1).SetBit(p, 0, 1)
	}
	for range 1000 {
		p, q := odd(), odd()
		p1, q1 := new(big.Int).Sub(p, one), new(big.Int).Sub(q, one)
		inverse, d := new(big.Int).ModInverse(q, p), new(big.Int).ModInverse(e, new(big.Int).Mul(p1, q1))
		if inverse == nil || d == nil {
			continue
		}
		der, err := asn1.Marshal(struct {
			Version                   int
			N, E, D, P, Q, D1, D2, Qi *big.Int
		}{0, new(big.Int).Mul(p, q), e, d, p, q, new(big.Int).Mod(d, p1), new(big.Int).Mod(d, q1), inverse})
		if err != nil || len(der) > size || len(der) < size*9/10 {
			t.Fatalf("%d bytes of %d, %v", len(der), size, err)
		}
		return der
	}
	t.Fatal("no such key")
	return nil
}

// BenchmarkParse is what the translation pays for a Secret or ConfigMap.
func BenchmarkParse(b *testing.B) {
	for name, parse := range worst(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = parse()
			}
		})
	}
}

// Nothing that a Secret may hold costs the translation much memory.
func TestParseTakesLittleMemory(t *testing.T) {
	for name, parse := range worst(t) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := parse()
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20 {
			t.Errorf("%s: %d bytes", name, took)
		} else {
			t.Logf("%s: %d bytes, %.60v", name, took, err)
		}
	}
}
