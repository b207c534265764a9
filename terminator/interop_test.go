// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// needs skips a test for want of a program. On the machines where nothing may be
// skipped only Java and Node may be missing.
func needs(t *testing.T, program string) {
	t.Helper()
	optional := program == "java" || program == "node"
	if program == "java" {
		program = "javac" // it runs from source
	}
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("SLUICE_REQUIRE_ROOT") != "" && !optional {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("%s is not installed", program)
	}
}

// TestRealClientsCarryStreams has TLS 1.3 clients of several makes send and
// receive a stream, in every cipher suite that they can be told to use.
func TestRealClientsCarryStreams(t *testing.T) {
	const size = 3 << 20
	// Not all of them can end one direction only.
	takes := func(r io.Reader) error {
		_, err := io.CopyN(keyed.NewChecker(upKey), r, size)
		return err
	}
	port, web := freePort(t), freePort(t)
	run(t, &Server{}, simple(port, certificateFor(t, "e", "a.example"), backend(t, func(c half) {
		sent := make(chan error, 1)
		go func() { sent <- keyed.Send(c, downKey, size/2, 40_000) }()
		if err := errors.Join(takes(c), <-sent); err != nil {
			t.Errorf("backend: %v", err)
			return
		}
		_, _ = c.Write([]byte("whole"))
		_ = c.CloseWrite()
		_ = strict(c)
	})))
	run(t, &Server{}, simple(web, certificateFor(t, "e", "a.example"), backend(t, func(c half) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil {
			err = takes(r.Body)
		}
		if err != nil {
			t.Errorf("backend: %v", err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
		_ = keyed.Send(c, downKey, size/2, 40_000)
		_, _ = c.Write([]byte("whole"))
		_ = c.CloseWrite()
		_ = strict(c)
	})))
	dir := t.TempDir()
	ca, up := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "up")
	var stream, want bytes.Buffer
	_ = keyed.Send(&stream, upKey, size, size)
	_ = keyed.Send(&want, downKey, size/2, size)
	want.WriteString("whole")
	for path, content := range map[string][]byte{
		ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testCA().cert.Raw}), up: stream.Bytes(),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openssl := func(suite string) []string {
		return []string{"openssl", "s_client", "-quiet", "-connect", address(port), "-servername", "a.example", "-CAfile", ca,
			"-verify_return_error", "-tls1_3", "-ciphersuites", suite}
	}
	gnutls := func(cipher string) []string {
		return []string{"gnutls-cli", "--logfile", os.DevNull, "--x509cafile", ca, "--sni-hostname", "a.example",
			"--verify-hostname", "a.example", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+" + cipher, "-p", itoa(port), "127.0.0.1"}
	}
	for _, tt := range []struct {
		name    string
		command []string
		files   bool // the command takes the names of files, not standard input and output
	}{
		{"openssl, AES-128-GCM", openssl("TLS_AES_128_GCM_SHA256"), false},
		{"openssl, AES-256-GCM", openssl("TLS_AES_256_GCM_SHA384"), false},
		{"openssl, ChaCha20-Poly1305", openssl("TLS_CHACHA20_POLY1305_SHA256"), false},
		{"openssl, padding", append(openssl("TLS_AES_128_GCM_SHA256"), "-record_padding", "4000"), false},
		{"openssl, small records", append(openssl("TLS_AES_128_GCM_SHA256"), "-split_send_frag", "512", "-max_send_frag", "512"), false},
		{"openssl, no session tickets", append(openssl("TLS_AES_128_GCM_SHA256"), "-no_ticket"), false},
		{"gnutls, AES-128-GCM", gnutls("AES-128-GCM"), false},
		{"gnutls, AES-256-GCM", gnutls("AES-256-GCM"), false},
		{"gnutls, ChaCha20-Poly1305", gnutls("CHACHA20-POLY1305"), false},
		{"curl", []string{"curl", "-sS", "--tlsv1.3", "--http1.1", "--cacert", ca, "--resolve", "a.example:" + itoa(web) + ":127.0.0.1",
			"-T", up, "https://a.example:" + itoa(web) + "/"}, false},
		{"python", []string{"python3", "testdata/clients/client.py", itoa(port), ca}, true},
		{"node", []string{"node", "testdata/clients/client.js", itoa(port), ca}, true},
		{"java, new keys every 64 KiB", []string{"java", "testdata/clients/Client.java", itoa(port), ca}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			program := tt.command[0]
			needs(t, program)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			down := filepath.Join(t.TempDir(), "down")
			if tt.files {
				tt.command = append(tt.command, up, down)
			}
			cmd := exec.CommandContext(ctx, program, tt.command[1:]...)
			var problems, out bytes.Buffer
			cmd.Stderr = &problems
			if !tt.files {
				// Standard input stays open, for to some its end is the end of all.
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				go func() { _, _ = in.Write(stream.Bytes()) }()
				cmd.Stdout = &out
			}
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %s", err, problems.String())
			}
			got := out.Bytes()
			if tt.files {
				var err error
				if got, err = os.ReadFile(down); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want.Bytes()) {
				t.Errorf("%d bytes came back, not the %d that were sent: %s", len(got), want.Len(), problems.String())
			}
		})
	}
}

// TestKeyUpdatesOfOpenSSL asks for new keys, in one direction and in both,
// between lines.
func TestKeyUpdatesOfOpenSSL(t *testing.T) {
	needs(t, "openssl")
	port := freePort(t)
	run(t, &Server{}, simple(port, certificateFor(t, "e", "a.example"), backend(t, echo)))
	cmd := exec.Command("openssl", "s_client", "-connect", address(port), "-servername", "a.example", "-tls1_3")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer in.Close()
	for _, line := range []string{"one", "k", "two", "K", "three", "K", "k", "four"} {
		want := line
		if len(line) == 1 {
			want = "KEYUPDATE" // s_client drops what comes with a command
		}
		before := strings.Count(out.String(), want)
		_, _ = io.WriteString(in, line+"\n")
		eventually(t, line, func() bool { return strings.Count(out.String(), want) > before })
	}
}

// corked is a client's socket that lets its ClientHello go and keeps the rest
// until it is told.
type corked struct {
	strictConn
	hello, open bool
	held        []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.hello || c.open {
		c.hello = true
		return c.strictConn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// TestDataThatComesWithTheEndOfTheHandshake sends Finished, a stream and its end
// in one write.
func TestDataThatComesWithTheEndOfTheHandshake(t *testing.T) {
	port := freePort(t)
	to := backend(t, func(c half) {
		if err := keyed.Receive(c, upKey, streamSize); err != nil {
			t.Errorf("backend: %v", err)
		}
		_ = keyed.Send(c, downKey, streamSize, 50_000)
		_ = c.CloseWrite()
	})
	for name, way := range ways(t, port, to) {
		if strings.HasPrefix(name, "tcp") || name == "tls 1.2" {
			continue // no such handshake
		}
		for _, size := range []int64{1, 16 << 10, streamSize} {
			t.Run(name, func(t *testing.T) {
				run(t, way.server(), way.snap)
				raw, err := net.Dial("tcp", address(port))
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				wire := &corked{strictConn: strictConn{raw.(*net.TCPConn)}}
				c := tls.Client(wire, client("a.example"))
				var first bytes.Buffer
				_ = keyed.Send(&first, upKey, streamSize, streamSize)
				if _, err := c.Write(first.Bytes()[:size]); err != nil {
					t.Fatal(err)
				}
				wire.open = true
				if _, err := raw.Write(wire.held); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Write(first.Bytes()[size:]); err != nil {
					t.Fatal(err)
				}
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if err := keyed.Receive(c, downKey, streamSize); err != nil {
					t.Errorf("client: %v", err)
				}
			})
		}
	}
}

// TestWhoCarriesAConnection looks at who waits for the bytes of an established
// connection: with the event loop nobody of its own.
func TestWhoCarriesAConnection(t *testing.T) {
	const records, stream, plain = "(*recordSource).next", "(*tlsSource).next", "relay.TCP("
	port := freePort(t)
	to := backend(t, echo)
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			run(t, way.server(), way.snap)
			c := way.dial(t)
			roundTrip(t, c)
			want := stream
			switch name {
			case "tcp, no event loop":
				want = plain
			case "tcp", "tls 1.3", "no gcm":
				want = ""
			case "tls to tls", "no event loop", "no gcm, no event loop":
				want = records
			}
			eventually(t, "a reader in "+want, func() bool { return bytes.Contains(stacks(), []byte(want)) })
			for _, other := range []string{records, stream, plain} {
				if other != want && (other != stream || name != "tls to tls") && bytes.Contains(stacks(), []byte(other)) {
					t.Errorf("%s carries it, too", other)
				}
			}
		})
	}
}

func stacks() []byte {
	all := make([]byte, 1<<20)
	return all[:runtime.Stack(all, true)]
}
