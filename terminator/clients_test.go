// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func readSource(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRealClientsConnect runs the TLS clients that are installed.
func TestRealClientsConnect(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: testCA().cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	echoPort, plain, secure := freePort(t), freePort(t), freePort(t)
	snap := simple(echoPort, certificateFor(t, "e", "a.example"), backend(t, echo))
	rsa := certificateWith(t, "r", rsaKey(), "a.example")
	snap.Certificates = append(snap.Certificates, rsa)
	snap.Listeners[0].TLS.Certificates = []string{"e", "r"}
	g := run(t, &Server{}, snap)
	webGateway(t, &Server{}, plain, secure)
	for _, tt := range []struct {
		name, input, want string
		command           []string
	}{
		{"openssl, TLS 1.3", "hello\n", "hello", []string{"openssl", "s_client", "-connect", address(echoPort), "-servername", "a.example", "-CAfile", ca, "-verify_return_error", "-tls1_3"}},
		{"openssl, TLS 1.2", "hello\n", "hello", []string{"openssl", "s_client", "-connect", address(echoPort), "-servername", "a.example", "-CAfile", ca, "-verify_return_error", "-tls1_2"}},
		{"openssl, RSA only", "hello\n", "Peer signature type: RSA", []string{"openssl", "s_client", "-connect", address(echoPort), "-servername", "a.example", "-CAfile", ca, "-verify_return_error", "-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"}},
		{"openssl, ECDSA preferred", "hello\n", "Peer signature type: ECDSA", []string{"openssl", "s_client", "-connect", address(echoPort), "-servername", "a.example", "-CAfile", ca, "-verify_return_error"}},
		{"openssl, P-256 after a HelloRetryRequest", "hello\n", "hello", []string{"openssl", "s_client", "-connect", address(echoPort), "-servername", "a.example", "-CAfile", ca, "-verify_return_error", "-groups", "X448:P-256"}},
		{"gnutls", "hello\n", "hello", []string{"gnutls-cli", "--x509cafile", ca, "--sni-hostname", "a.example", "--verify-hostname", "a.example", "-p", itoa(echoPort), "127.0.0.1"}},
		{"curl, HTTP/2", "", "wa /x", []string{"curl", "-sS", "--http2", "--cacert", ca, "--resolve", "a.example:" + itoa(secure) + ":127.0.0.1", "https://a.example:" + itoa(secure) + "/x"}},
		{"curl, HTTP/1.1", "", "wa /x", []string{"curl", "-sS", "--http1.1", "--cacert", ca, "--resolve", "a.example:" + itoa(secure) + ":127.0.0.1", "https://a.example:" + itoa(secure) + "/x"}},
		{"curl, plain", "", "wb /y", []string{"curl", "-sS", "--resolve", "b.example:" + itoa(plain) + ":127.0.0.1", "http://b.example:" + itoa(plain) + "/y"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := exec.LookPath(tt.command[0]); err != nil {
				if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
					t.Fatalf("%s is not installed", tt.command[0])
				}
				t.Skipf("%s is not installed", tt.command[0])
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, tt.command[0], tt.command[1:]...)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out syncBuffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			_, _ = in.Write([]byte(tt.input))
			for deadline := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), tt.want) && time.Now().Before(deadline); {
				time.Sleep(5 * time.Millisecond)
			}
			in.Close()
			_ = cmd.Wait()
			if !strings.Contains(out.String(), tt.want) {
				t.Errorf("no %q in the output:\n%s", tt.want, out.String())
			}
		})
	}
	eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
}
