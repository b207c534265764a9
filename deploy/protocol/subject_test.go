// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/freeport"
)

// subject is a TLS server that is attacked: the gateway in one of its modes, or
// crypto/tls alone.
type subject struct {
	name  string
	flags []string // of sluice run; nil: crypto/tls alone
}

var (
	gateway     = subject{"gateway", []string{"-splice=off"}}
	noRecord    = subject{"gateway, no record loop", []string{"-splice=off", "-record-loop=off"}}
	noEventLoop = subject{"gateway, no event loop", []string{"-splice=off", "-event-loop=off"}}
	reference   = subject{"crypto/tls", nil}
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
		return launchBare(t, backend, pairs)
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
	text := strings.NewReplacer("@TLS@", port, "@PAIRS@", strings.Join(refs, ", "), "@PORT@", backendPort, "@ADDRESS@", host).Replace(objects)
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
  listeners:
  - {name: tls, protocol: TLS, port: @TLS@, tls: {mode: Terminate, certificateRefs: [@PAIRS@]}}
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
	Backend string
	Pairs   [][2]string
}

func launchBare(t *testing.T, backend string, pairs []pair) running {
	t.Helper()
	c := bareConf{Backend: backend}
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
