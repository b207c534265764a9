// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/bench/freeport"
)

// subject is a TLS server that is attacked: the gateway in one of its modes, or
// crypto/tls alone.
type subject struct {
	name  string
	flags []string // of sluice run; nil: crypto/tls alone
	asks  asking
}

// asking is what a server asks of the certificates of its clients: a mode of the
// Gateway API's spec.tls.frontend, "" for nothing.
type asking gwv1.FrontendValidationModeType

const (
	validOnly = asking(gwv1.AllowValidOnly)
	anybody   = asking(gwv1.AllowInsecureFallback)
)

// clientAuth is what the modes are for crypto/tls.
var clientAuth = map[asking]tls.ClientAuthType{"": tls.NoClientCert, validOnly: tls.RequireAndVerifyClientCert, anybody: tls.RequestClientCert}

// asking is the subject when it asks its clients for certificates of the test's CA.
func (s subject) asking(a asking) subject {
	s.asks = a
	return s
}

var (
	gateway     = subject{name: "gateway", flags: []string{"-splice=off"}}
	noRecord    = subject{name: "gateway, no record loop", flags: []string{"-splice=off", "-record-loop=off"}}
	noEventLoop = subject{name: "gateway, no event loop", flags: []string{"-splice=off", "-event-loop=off"}}
	reference   = subject{name: "crypto/tls"}
)

// running is a subject's process.
type running struct {
	address string
	pid     int
}

// launch starts the subject in front of a backend, until the end of the test.
// pairs are its certificates.
func (s subject) launch(t *testing.T, backend string, pairs ...pair) running {
	t.Helper()
	if s.flags == nil {
		return launchBare(t, backend, s.asks, pairs)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	if err := os.Mkdir(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	number, release, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	port := fmt.Sprint(number)
	host, backendPort, err := net.SplitHostPort(backend)
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, p := range pairs {
		refs = append(refs, fmt.Sprintf("{name: %s}", p.name))
		secret, err := p.secret()
		if err == nil {
			err = os.WriteFile(filepath.Join(conf, p.name+".json"), secret, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cas, err := os.ReadFile(site.ca)
	if err != nil {
		t.Fatal(err)
	}
	protocol, frontend := "TLS", ""
	if s.asks != "" {
		protocol = "HTTPS" // which alone has certificates of clients (GEP-91); it takes a TCPRoute, too
		frontend = fmt.Sprintf(`tls: {frontend: {default: {validation: {mode: %s, caCertificateRefs: [{group: "", kind: ConfigMap, name: cas}]}}}}`, s.asks)
	}
	text := strings.NewReplacer("@PROTOCOL@", protocol, "@FRONTEND@", frontend, "@CAS@", strconv.Quote(string(cas)),
		"@TLS@", port, "@PAIRS@", strings.Join(refs, ", "), "@PORT@", backendPort, "@ADDRESS@", host).Replace(objects)
	if err := os.WriteFile(filepath.Join(conf, "objects.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := filepath.Join(dir, "admin.sock")
	args := append([]string{"run", "-admin", admin, "-metrics", "off", "-log-level", "warn"}, s.flags...)
	var log bytes.Buffer
	cmd := exec.Command(site.binary, append(args, conf)...)
	cmd.Stdout, cmd.Stderr = &log, &log
	end := start(t, cmd)
	t.Cleanup(func() {
		end()
		if t.Failed() {
			t.Logf("log of the gateway:\n%s", &log)
		}
	})
	eventually(t, "the gateway serves", func() error { return exec.Command(site.binary, "ready", "-admin", admin).Run() })
	return running{net.JoinHostPort("127.0.0.1", port), cmd.Process.Pid}
}

// objects are a gateway that serves every name, and none.
const objects = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: test}
spec:
  gatewayClassName: sluice
  addresses: [{value: 127.0.0.1}]
  @FRONTEND@
  listeners:
  - {name: tls, protocol: @PROTOCOL@, port: @TLS@, tls: {mode: Terminate, certificateRefs: [@PAIRS@]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cas}
data: {ca.crt: @CAS@}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: tcp}
spec:
  parentRefs: [{name: test, sectionName: tls}]
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

// secret is the pair as an object.
func (p pair) secret() ([]byte, error) {
	data := map[string][]byte{}
	for key, file := range map[string]string{"tls.crt": p.certificate, "tls.key": p.key} {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		data[key] = text
	}
	return json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]string{"name": p.name},
		"type": "kubernetes.io/tls", "data": data})
}

// bareEnv is the environment variable that makes a test binary the reference.
const bareEnv = "SLUICE_PROTOCOL_BARE"

// bareConf is what the reference is told.
type bareConf struct {
	Backend    string
	Pairs      [][2]string
	ClientAuth tls.ClientAuthType
	ClientCAs  string
}

func launchBare(t *testing.T, backend string, asks asking, pairs []pair) running {
	t.Helper()
	c := bareConf{Backend: backend, ClientAuth: clientAuth[asks], ClientCAs: site.ca}
	for _, p := range pairs {
		c.Pairs = append(c.Pairs, [2]string{p.certificate, p.key})
	}
	conf, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareEnv+"="+string(conf))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(start(t, cmd))
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return running{strings.TrimSpace(address), cmd.Process.Pid}
}

// bare is the reference: tls.Server with the gateway's configuration, and a copy
// in each direction.
func bare(conf string) error {
	var c bareConf
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		return err
	}
	config := bareConfig()
	for _, p := range c.Pairs {
		pair, err := tls.LoadX509KeyPair(p[0], p[1])
		if err != nil {
			return err
		}
		config.Certificates = append(config.Certificates, pair)
	}
	if config.ClientAuth = c.ClientAuth; config.ClientAuth != tls.NoClientCert {
		cas, err := os.ReadFile(c.ClientCAs)
		if err != nil {
			return err
		}
		config.ClientCAs = x509.NewCertPool()
		config.ClientCAs.AppendCertsFromPEM(cas)
	}
	// As the gateway's listener, which serves every name: by the kind of key alone.
	config.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		hello.ServerName = ""
		for i := range config.Certificates {
			if c := &config.Certificates[i]; hello.SupportsCertificate(c) == nil {
				return c, nil
			}
		}
		return nil, nil // the first of them
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	for {
		raw, err := l.Accept()
		if err != nil {
			return err
		}
		go bareProxy(tls.Server(raw, config), c.Backend)
	}
}

// bareConfig is the gateway's, but for certificates and protocols.
func bareConfig() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) && !strings.Contains(s.Name, "_CBC_") {
			c.CipherSuites = append(c.CipherSuites, s.ID)
		}
	}
	return c
}

func bareProxy(client *tls.Conn, address string) {
	defer client.NetConn().Close()
	if client.Handshake() != nil {
		alerted(client.NetConn())
		return
	}
	backend, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer backend.Close()
	over := make(chan struct{})
	go func() {
		defer close(over)
		if _, err := io.Copy(client, backend); err == nil {
			_ = client.CloseWrite()
		}
	}()
	if _, err := io.Copy(backend, client); err != nil {
		alerted(client.NetConn()) // of what ended its stream
		return
	}
	_ = backend.(*net.TCPConn).CloseWrite()
	<-over
}

// alerted ends a connection whose client has been sent an alert. Closed with bytes
// that were not read it would be reset, and the alert might be lost.
func alerted(client net.Conn) {
	_ = client.SetDeadline(time.Now().Add(time.Second))
	_ = client.(*net.TCPConn).CloseWrite()
	_, _ = io.CopyN(io.Discard, client, 1<<20)
}

// start starts a process and returns what ends it.
func start(t *testing.T, cmd *exec.Cmd) (end func()) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// eventually tries something until it works, for two minutes.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within two minutes: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
