// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/bench/leak"
)

var update = flag.Bool("update", false, "write what the scripts in testdata give into them")

func TestMain(m *testing.M) {
	testscript.Main(leak.Of(func() int { return withBPFFS(m.Run) }, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")), map[string]func(){"sluice": main, "kubectl-sluice": main, "echo-server": echoServer})
}

// TestScripts runs the command as a user does; the scripts below testdata say
// what it prints. Beside the commands of testscript there are:
//
//	expand FILE...         replaces $NAME in files: $PORT1, $PORT2 (free ports), $ECHO (port of an echo server)
//	secret FILE NAME...    writes a Secret with a certificate for names, and that into FILE.pem
//	talk PORT NAME         sends a line over TLS with that server name, and wants it back
//	refused PORT NAME      wants a handshake or an echo to fail
//	until PATTERN CMD...   runs a program until its output matches, a minute at most
//	get URL                prints status code and body
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		UpdateScripts: *update,
		Dir:           "testdata",
		Setup: func(e *testscript.Env) error {
			echo, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			done := serveEcho(echo)
			e.Defer(func() { echo.Close(); <-done })
			e.Vars = append(e.Vars, "ECHO="+port(echo.Addr()), "PORT1="+freePort(t), "PORT2="+freePort(t), "METRICS="+freePort(t), "ADMIN=admin.sock")
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"expand": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, f := range args {
					ts.Check(os.WriteFile(ts.MkAbs(f), []byte(os.Expand(ts.ReadFile(f), ts.Getenv)), 0o600))
				}
			},
			"secret": func(ts *testscript.TestScript, _ bool, args []string) {
				c, err := newCertificate(time.Now().Add(time.Hour), args[1:]...)
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), c.secret(args[1]), 0o600))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pem"), c.chain, 0o600))
			},
			"talk": func(ts *testscript.TestScript, _ bool, args []string) {
				if err := talk(args[0], args[1]); err != nil {
					ts.Fatalf("talk: %v", err)
				}
			},
			"refused": func(ts *testscript.TestScript, _ bool, args []string) {
				if err := talk(args[0], args[1]); err == nil {
					ts.Fatalf("talk: not refused")
				}
			},
			"until": until,
			"get":   get,
		},
	})
}

func until(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile("(?m)" + args[0])
	deadline := time.Now().Add(time.Minute)
	for {
		_ = ts.Exec(args[1], args[2:]...) // its exit status is not the matter
		if pattern.MatchString(ts.ReadFile("stdout")) || pattern.MatchString(ts.ReadFile("stderr")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q does not match %q", ts.ReadFile("stdout")+ts.ReadFile("stderr"), args[0])
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func get(ts *testscript.TestScript, _ bool, args []string) {
	resp, err := http.Get(args[0])
	if err != nil {
		ts.Fatalf("%v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%s\n%s", resp.Status, body)
}

// talk has one line echoed over TLS; the certificate must be for name.
func talk(port, name string) error {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, "tcp", "127.0.0.1:"+port,
		&tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.ConnectionState().PeerCertificates[0].VerifyHostname(name); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	line := []byte("hello\n")
	if _, err := c.Write(line); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, line) {
		return fmt.Errorf("echo of %q is %q", line, got)
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		return fmt.Errorf("after the echo: %q, %w", rest, err)
	}
	return nil
}

// serveEcho echoes until the listener is closed and its connections ended.
func serveEcho(l net.Listener) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with its client, at the latest with the process
				defer c.Close()
				_, _ = io.Copy(c, struct{ io.Reader }{c})
			}()
		}
	}()
	return done
}

func port(a net.Addr) string { return fmt.Sprint(a.(*net.TCPAddr).Port) }

// freePort returns a port that nobody listens on now.
func freePort(t testing.TB) string {
	t.Helper()
	port, release, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return strconv.Itoa(int(port))
}

// certificate is a self-signed one.
type certificate struct {
	chain, key []byte // PEM
	serial     *big.Int
}

func newCertificate(notAfter time.Time, names ...string) (*certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return certificateWith(key, notAfter, names...)
}

func certificateWith(key crypto.Signer, notAfter time.Time, names ...string) (*certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: notAfter.Add(-48 * time.Hour), NotAfter: notAfter,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: names[0]}}, key.Public(), key)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return &certificate{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), serial}, nil
}

// secret is the Secret of a certificate, as a file.
func (c *certificate) secret(name string) []byte {
	indent := func(p []byte) string { return strings.ReplaceAll(strings.TrimSpace(string(p)), "\n", "\n    ") }
	return fmt.Appendf(nil, "apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n    %s\n  tls.key: |\n    %s\n",
		name, indent(c.chain), indent(c.key))
}
