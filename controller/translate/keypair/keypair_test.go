// SPDX-License-Identifier: Apache-2.0

package keypair

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// issue makes a certificate for a key in PEM; a nil parent signs itself.
func issue(t testing.TB, name string, parent *x509.Certificate, signer any, key *ecdsa.PrivateKey) ([]byte, *x509.Certificate) {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: parent == nil, BasicConstraintsValid: true}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), c
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return k, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestParseGivesTheSameForEveryFormOfTheSame(t *testing.T) {
	caKey, _ := newKey(t)
	caPEM, ca := issue(t, "ca", nil, nil, caKey)
	k, key := newKey(t)
	leaf, _ := issue(t, "www.example.com", ca, caKey, k)
	sec1, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	params := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}})
	chain := append(bytes.Clone(leaf), caPEM...)
	want, err := Parse(chain, key)
	if err != nil {
		t.Fatal(err)
	}
	crlf := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }
	for name, c := range map[string]struct{ chain, key []byte }{
		"again":            {want.Chain, want.Key},
		"leaf last":        {append(bytes.Clone(caPEM), leaf...), key},
		"leaf twice":       {append(bytes.Clone(chain), leaf...), key},
		"CR LF":            {crlf(chain), crlf(key)},
		"CR":               {bytes.ReplaceAll(chain, []byte("\n"), []byte("\r")), key},
		"byte order mark":  {append([]byte("\xEF\xBB\xBF"), chain...), append([]byte("\xEF\xBB\xBF"), key...)},
		"text around":      {append([]byte("Subject: me\n"), chain...), append(key, "bye"...)},
		"no line end":      {bytes.TrimSpace(chain), bytes.TrimSpace(key)},
		"key in the chain": {append(bytes.Clone(key), chain...), key},
		"SEC 1":            {chain, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})},
		"wrong label":      {chain, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: sec1})},
		"EC PARAMETERS":    {chain, append(bytes.Clone(params), key...)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(c.chain, c.key)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Chain, want.Chain) || !bytes.Equal(got.Key, want.Key) {
				t.Errorf("got\n%s\nwant\n%s", got.Chain, want.Chain)
			}
		})
	}
}

func TestParseRefusesWhatIsTooLarge(t *testing.T) {
	k, key := newKey(t)
	leaf, _ := issue(t, "www.example.com", nil, nil, k)
	big := bytes.Repeat([]byte("# comment\n"), 110_000)
	for name, c := range map[string]struct {
		chain, key []byte
		want       string
	}{
		"chain of 1 MiB":  {append(bytes.Clone(leaf), big...), key, "tls.crt has 11"},
		"key of 1 MiB":    {leaf, append(bytes.Clone(key), big...), "tls.key has 11"},
		"key of 12 KiB":   {leaf, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: make([]byte, 11<<10)}), "tls.key has 11264 bytes"},
		"11 certificates": {bytes.Repeat(leaf, 11), key, "tls.crt has more than 10 certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(c.chain, c.key); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s…", err, c.want)
			}
		})
	}
}

func TestParseRefusesRSAKeysThatAreTooLarge(t *testing.T) {
	for bits, ok := range map[int]bool{1024: false, 2047: false, 2048: true, 8192: true, 8193: false} {
		err := checkKey(&rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), uint(bits-1)), E: 65537}})
		if (err == nil) != ok {
			t.Errorf("%d bits: %v", bits, err)
		}
	}
}

func TestParseNeverQuotesTheKey(t *testing.T) {
	k, key := newKey(t)
	leaf, _ := issue(t, "www.example.com", nil, nil, k)
	block, _ := pem.Decode(key)
	body := strings.Split(string(key), "\n")[1]
	scalar, err := k.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for i := range block.Bytes {
		broken := bytes.Clone(block.Bytes)
		broken[i] ^= 0x55
		_, err := Parse(leaf, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: broken}))
		if err != nil && (strings.Contains(err.Error(), body[:20]) || strings.Contains(err.Error(), fmt.Sprintf("%x", scalar)[:10])) {
			t.Fatalf("byte %d broken: %v", i, err)
		}
	}
}

// FuzzCertificate holds that Parse never panics, that what it takes is what
// crypto/tls takes, and that its own output is a fixed point.
func FuzzCertificate(f *testing.F) {
	caKey, _ := newKey(f)
	caPEM, ca := issue(f, "ca", nil, nil, caKey)
	k, key := newKey(f)
	leaf, c := issue(f, "www.example.com", ca, caKey, k)
	sec1, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(leaf, key)
	f.Add(append(bytes.Clone(caPEM), leaf...), key)
	f.Add(append(bytes.Clone(key), leaf...), append([]byte("text\r\n"), key...))
	f.Add(leaf, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}))
	f.Add(leaf, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: sec1}))
	f.Add(c.Raw, sec1)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n"), []byte("-----BEGIN"))
	f.Add([]byte("\xEF\xBB\xBF\x00-----BEGIN"), []byte("LS0tLS1CRUdJTi"))
	f.Add([]byte{}, []byte{0x30})
	f.Add([]byte("\xEF\xBB\xBF"), key)
	f.Add(leaf, []byte("\xEF\xBB\xBF"))
	f.Fuzz(func(t *testing.T, chain, key []byte) {
		p, err := Parse(chain, key)
		if err != nil {
			if p != nil || len(err.Error()) > 4096 {
				t.Fatalf("%v, %d bytes of error", p, len(err.Error()))
			}
			return
		}
		p.Expiry(time.Now())
		if _, err := tls.X509KeyPair(p.Chain, p.Key); err != nil {
			t.Fatalf("crypto/tls: %v", err)
		}
		again, err := Parse(p.Chain, p.Key)
		if err != nil || !bytes.Equal(again.Chain, p.Chain) || !bytes.Equal(again.Key, p.Key) {
			t.Fatalf("not a fixed point: %v", err)
		}
	})
}
