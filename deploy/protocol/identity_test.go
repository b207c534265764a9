// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// name is what clients call a server.
const name = "localhost"

// identities are the certificates of all servers and clients, of a CA of their own.
type identities struct {
	ca      string // a file, PEM
	pool    *x509.CertPool
	pairs   []pair
	clients map[string]pair // by name
}

// pair is a certificate and its key.
type pair struct{ name, certificate, key string } // files, PEM

func newIdentities(dir string) (ids identities, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return ids, err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the CA of this test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return ids, err
	}
	if ids.ca, err = writePEM(dir, "ca.crt", "CERTIFICATE", root); err != nil {
		return ids, err
	}
	cert, err := x509.ParseCertificate(root)
	if err != nil {
		return ids, err
	}
	ids.pool = x509.NewCertPool()
	ids.pool.AddCert(cert)

	rsaKey := func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) }
	ecdsaKey := func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }
	ed25519Key := func() (crypto.Signer, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	ids.clients = map[string]pair{}
	for _, k := range []struct {
		name string
		key  func() (crypto.Signer, error)
		use  x509.ExtKeyUsage
	}{
		{"ecdsa", ecdsaKey, x509.ExtKeyUsageServerAuth}, {"rsa", rsaKey, x509.ExtKeyUsageServerAuth},
		{"client-ecdsa", ecdsaKey, x509.ExtKeyUsageClientAuth}, {"client-rsa", rsaKey, x509.ExtKeyUsageClientAuth},
		{"client-ed25519", ed25519Key, x509.ExtKeyUsageClientAuth},
	} {
		key, err := k.key()
		if err != nil {
			return ids, err
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{k.use}}
		der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
		if err != nil {
			return ids, err
		}
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return ids, err
		}
		p := pair{name: k.name}
		if p.certificate, err = writePEM(dir, k.name+".crt", "CERTIFICATE", der); err != nil {
			return ids, err
		}
		if p.key, err = writePEM(dir, k.name+".key", "PRIVATE KEY", pkcs8); err != nil {
			return ids, err
		}
		if k.use == x509.ExtKeyUsageServerAuth {
			ids.pairs = append(ids.pairs, p)
		} else {
			ids.clients[p.name] = p
		}
	}
	return ids, nil
}

func writePEM(dir, file, kind string, der []byte) (string, error) {
	path := filepath.Join(dir, file)
	return path, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// client is the configuration of a client that trusts the CA.
func client() *tls.Config { return &tls.Config{RootCAs: site.pool, ServerName: name} }
