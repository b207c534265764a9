// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/controller/folder"
	"github.com/sluice-gateway/sluice/controller/lint"
)

var now = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// secret is a Secret with a certificate for names that expires in days.
func secret(t *testing.T, name string, key crypto.Signer, days int, names ...string) string {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, DNSNames: names,
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(0, 0, days)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\ntype: kubernetes.io/tls\ndata:\n  tls.key: %s\n  tls.crt: %s\n---\n",
		name, encode("PRIVATE KEY", private), encode("CERTIFICATE", der))
}

func gateway(hostname string, secrets ...string) string {
	refs := ""
	for _, s := range secrets {
		refs += fmt.Sprintf("      - name: %s\n", s)
	}
	return fmt.Sprintf(`apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: sluice
  listeners:
  - name: tls
    port: 443
    protocol: TLS
    hostname: %q
    tls:
      certificateRefs:
%s`, hostname, refs)
}

func TestCertificatesAreWarnedOf(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	const on = ` (listener "tls" of Gateway default/g)`
	for _, test := range []struct {
		name, objects string
		want          []string
	}{
		{"good", secret(t, "c", ec, 31, "*.a.test") + gateway("*.a.test", "c"), nil},
		{"soon", secret(t, "c", ec, 29, "a.test") + gateway("a.test", "c"),
			[]string{"f.yaml:8 warning certificate-expires: the certificate expires on 2026-11-30, in less than 30 days; renew it" + on}},
		{"expired", secret(t, "c", ec, -1, "a.test") + gateway("a.test", "c"),
			[]string{"f.yaml:8 warning certificate-not-valid: the certificate expired on 2026-10-31T00:00:00Z; renew it" + on}},
		{"other name", secret(t, "c", ec, 90, "b.test") + gateway("a.test", "c"),
			[]string{`f.yaml:19 warning certificate-hostname: listener "tls": Secret default/c: the certificate is for b.test, not for the listener's hostname "a.test"`}},
		{"RSA", secret(t, "c", rsaKey, 90, "a.test") + gateway("a.test", "c"),
			[]string{"f.yaml:8 warning rsa-key: the key is RSA 2048; ECDSA P-256 makes handshakes far cheaper" + on}},
		{"RSA beside ECDSA", secret(t, "c", rsaKey, 90, "a.test") + secret(t, "e", ec, 90, "a.test") + gateway("a.test", "c", "e"), nil},
		{"RSA beside ECDSA for other names", secret(t, "c", rsaKey, 90, "a.test", "b.test") + secret(t, "e", ec, 90, "a.test") + gateway("a.test", "c", "e"),
			[]string{"f.yaml:8 warning rsa-key: the key is RSA 2048; ECDSA P-256 makes handshakes far cheaper" + on}},
		{"no names", secret(t, "c", ec, 90) + gateway("a.test", "c"),
			[]string{"f.yaml:8 warning no-subject-alt-name: the certificate has no subjectAltName; many clients ignore the common name and refuse it" + on}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, check(t, test.objects)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}

func check(t *testing.T, objects string) []string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f.yaml"), []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := folder.Read([]string{dir}, strings.NewReader(""))
	var out []string
	for _, f := range lint.Check(files, err, lint.Options{Controller: "sluice.dev/gateway-controller", Class: "sluice", Now: now}) {
		if strings.Contains(f.Message, "PRIVATE KEY") {
			t.Errorf("a key is told: %v", f)
		}
		out = append(out, fmt.Sprintf("%s:%d %s %s: %s", filepath.Base(f.File), f.Line, f.Severity, f.Rule, f.Message))
	}
	return out
}

func TestFindingsAreThoseOfTheTranslator(t *testing.T) {
	const route = `---
apiVersion: gateway.networking.k8s.io/v1
kind: %s
metadata: {name: r}
spec:
  parentRefs:
  - name: g
  rules:
  - backendRefs:
    - {name: s, port: 1}
`
	const tcp = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: tcp, port: 1, protocol: TCP}
`
	const absent = "f.yaml:17 note absent: Service default/s is not in the files and taken to be there"
	for _, test := range []struct {
		name, objects string
		want          []string
	}{
		{"attached", tcp + fmt.Sprintf(route, "TCPRoute"), []string{absent}},
		{"no listener takes it", tcp + fmt.Sprintf(route, "HTTPRoute"), []string{
			`f.yaml:14 error NotAllowedByListeners: no listener of Gateway default/g takes this HTTPRoute: listener "tcp" has protocol TCP and takes TCPRoute; use protocol HTTP or HTTPS`, absent}},
		{"a List", "apiVersion: v1\nkind: List\nitems:\n- " + strings.ReplaceAll(strings.TrimSuffix(tcp, "\n"), "\n", "\n  ") +
			"\n- apiVersion: gateway.networking.k8s.io/v1\n  kind: TCPRoute\n  metadata: {name: r}\n  spec:\n    parentRefs:\n    - name: g\n      sectionName: nope\n    rules:\n    - backendRefs: [{name: s, port: 1}]\n",
			[]string{`f.yaml:16 error NoMatchingParent: Gateway default/g has no listener "nope"; it has "tcp" (port 1)`,
				"f.yaml:19 note absent: Service default/s is not in the files and taken to be there"}},
		{"a List with a mistake", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: gateway.networking.k8s.io/v1\n  kind: Gateway\n  metadata: {name: g}\n  spec:\n    gatewayClassName: sluice\n" +
			"    listeners:\n    - {name: a, port: 1, protocol: TCP}\n    - {name: b, port: 0, protocol: TCP}\n",
			[]string{"f.yaml:11 error not-valid: items[0]: spec.listeners[1].port: 0 is not a port, 1 to 65535"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, check(t, test.objects)); diff != "" {
				t.Errorf("findings differ (-want +got):\n%s", diff)
			}
		})
	}
}

// What the README calls an example is one, as it is.
func TestTheExampleHasNoErrors(t *testing.T) {
	objects, err := os.ReadFile("../../deploy/demo/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range check(t, string(objects)) {
		if strings.Contains(finding, " error ") {
			t.Error(finding)
		}
	}
}
