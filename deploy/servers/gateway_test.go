// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/terminator"
)

// name is what clients call the gateway; its certificate is for it.
const name = "localhost"

// mode is how a gateway runs.
type mode struct {
	name  string
	flags []string
}

var modes = []mode{
	{"splice", nil},
	{"splice, no event loop", []string{"-event-loop=off"}},
	{"splice, no record loop", []string{"-record-loop=off"}},
	{"relay", []string{"-splice=off"}},
	{"relay, no event loop", []string{"-splice=off", "-event-loop=off"}},
	{"relay, no record loop", []string{"-splice=off", "-record-loop=off"}},
}

// tcpModes are those of uses over plain TCP, which the gateway neither decrypts nor
// splices past TCP: splice(2) carries them, in the event loop or in a goroutine.
var tcpModes = []mode{
	{"kernel", nil},
	{"kernel, no event loop", []string{"-event-loop=off"}},
}

func (m mode) spliced() bool { return !slices.Contains(m.flags, "-splice=off") }

// gateway is a process "sluice run" with two listeners for one server: one
// terminates TLS, the other is TCP.
type gateway struct {
	t        *testing.T
	mode     mode
	use      use
	dir      string
	tls, tcp string // ports
	ca       string // a file, PEM
	pool     *x509.CertPool
}

// objects are the gateway's, with the endpoint of the server.
const objects = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: test}
spec:
  gatewayClassName: sluice
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: tls, protocol: TLS, port: @TLS@, tls: {mode: Terminate, certificateRefs: [{name: certificate}], options: {@OPTIONS@}}}
  - {name: tcp, protocol: TCP, port: @TCP@}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tls}
spec:
  parentRefs: [{name: test, sectionName: tls}]
  hostnames: [localhost]
  rules: [{backendRefs: [{name: test, port: 1}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: tcp}
spec:
  parentRefs: [{name: test, sectionName: tcp}]
  rules: [{backendRefs: [{name: test, port: 1}]}]
---
apiVersion: v1
kind: Service
metadata: {name: test}
spec: {ports: [{port: 1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: test-1, labels: {kubernetes.io/service-name: test}}
addressType: IPv4
ports: [{port: @PORT@}]
endpoints: [{addresses: ["@ADDRESS@"]}]
`

// launch starts a gateway in front of a server and waits until it serves.
func launch(t *testing.T, to netip.AddrPort, u use, m mode) *gateway {
	t.Helper()
	g := &gateway{t: t, mode: m, use: u, dir: dirFor(t, "gateway"), tls: freePort(t), tcp: freePort(t)}
	conf := filepath.Join(g.dir, "conf")
	if err := os.Mkdir(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	g.certify(conf)
	options := ""
	if u.alpn != "" {
		options = "sluice.dev/alpn: " + u.alpn
	}
	text := strings.NewReplacer("@OPTIONS@", options, "@TLS@", g.tls, "@TCP@", g.tcp, "@PORT@", fmt.Sprint(to.Port()), "@ADDRESS@", to.Addr().String()).Replace(objects)
	if err := os.WriteFile(filepath.Join(conf, "objects.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pins := fmt.Sprintf("/sys/fs/bpf/sluice-servers-%d-%s", os.Getpid(), g.tls)
	args := append([]string{"run", "-admin", g.admin(), "-metrics", "off", "-pin-dir", pins, "-access-log", g.accessLog()}, m.flags...)
	cmd := exec.Command(site.binary, append(args, conf)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = os.RemoveAll(pins)
		if t.Failed() {
			connections, _ := os.ReadFile(g.accessLog())
			t.Logf("log of the gateway:\n%s%s", &log, connections)
		}
	})
	eventually(t, "the gateway serves", func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the gateway ended: %v\n%s", err, &log)
		default:
		}
		_, err := exec.Command(site.binary, "ready", "-admin", g.admin()).Output()
		return err
	})
	return g
}

func freePort(t *testing.T) string {
	t.Helper()
	port, release, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return fmt.Sprint(port)
}

func (g *gateway) admin() string     { return filepath.Join(g.dir, "admin.sock") }
func (g *gateway) accessLog() string { return filepath.Join(g.dir, "access.log") }

// certify makes a CA for clients and a certificate for the gateway.
func (g *gateway) certify(conf string) {
	g.t.Helper()
	must := func(err error) {
		g.t.Helper()
		if err != nil {
			g.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the CA of this test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	must(err)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, &leafKey.PublicKey, key)
	must(err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(leafKey)
	must(err)
	text := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	g.ca, g.pool = filepath.Join(g.dir, "ca.crt"), x509.NewCertPool()
	g.pool.AppendCertsFromPEM(text("CERTIFICATE", root))
	must(os.WriteFile(g.ca, text("CERTIFICATE", root), 0o600))
	secret, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": "certificate"},
		"type": "kubernetes.io/tls", "data": map[string][]byte{"tls.crt": text("CERTIFICATE", der), "tls.key": text("PRIVATE KEY", pkcs8)}})
	must(err)
	must(os.WriteFile(filepath.Join(conf, "certificate.json"), secret, 0o600))
}

// access is a connection in the access log.
type access struct {
	Listener     string
	Path, Reason string
	Result       string
	Up, Down     int64
}

// way is the path, with the reason why it is not spliced.
func (a access) way() string { return strings.TrimSpace(a.Path + " " + a.Reason) }

// ended waits until no connection is left and returns those that were.
func (g *gateway) ended() []access {
	g.t.Helper()
	eventually(g.t, "connections have ended", func() error {
		if live := g.live(); len(live) > 0 {
			return fmt.Errorf("%d are left: %+v", len(live), live[0])
		}
		return nil
	})
	text, err := os.ReadFile(g.accessLog())
	if err != nil {
		g.t.Fatal(err)
	}
	var all []access
	for line := range bytes.Lines(text) {
		var a access
		if err := json.Unmarshal(line, &a); err != nil {
			g.t.Fatal(errors.Join(err, fmt.Errorf("access log: %s", line)))
		}
		all = append(all, a)
	}
	return all
}

// live are the connections as sluice conns tells them.
func (g *gateway) live() (all []terminator.Connection) {
	g.t.Helper()
	out, err := exec.Command(site.binary, "conns", "-o", "json", "-admin", g.admin()).Output()
	if err == nil {
		err = json.Unmarshal(out, &all)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	return all
}
