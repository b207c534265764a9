// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// program skips a test where a program is not installed.
func program(t *testing.T, name string) string {
	t.Helper()
	file, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
			t.Fatalf("%s is not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return file
}

func TestCurlGetsWhatTheBackendSaid(t *testing.T) {
	curl := program(t, "curl")
	g := start(t, state{hosts: to(), endpoints: map[string]string{"a": echoBackend(t, "a")}})
	file := filepath.Join(t.TempDir(), "upload")
	var stream bytes.Buffer
	if err := keyed.Send(&stream, 1, 250_000, 10_000); err != nil {
		t.Fatal(err)
	}
	upload := hex.EncodeToString(stream.Bytes()) // it comes back in JSON
	if err := os.WriteFile(file, []byte(upload), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name, version string
		args          []string
	}{
		{"HTTP/1.0", "HTTP/1.0 200 ", []string{"--http1.0", g.plain.URL}}, // net/http says 1.0 to 1.0
		{"HTTP/1.1", "HTTP/1.1 200 ", []string{"--http1.1", g.plain.URL}},
		{"HTTP/1.1 asking for h2c", "HTTP/1.1 200 ", []string{"--http2", g.plain.URL}},
		{"HTTP/1.1 over TLS", "HTTP/1.1 200 ", []string{"--http1.1", g.tls.URL}},
		{"HTTP/2", "HTTP/2 200 ", []string{"--http2", g.tls.URL}},
		{"HTTP/1.1 upload that waits for leave", "HTTP/1.1 200 ", []string{"--http1.1", "-H", "Expect: 100-continue", "--data-binary", "@" + file, g.tls.URL}},
		{"HTTP/1.1 upload in chunks", "HTTP/1.1 200 ", []string{"--http1.1", "-H", "Transfer-Encoding: chunked", "--data-binary", "@" + file, g.plain.URL}},
		{"HTTP/2 upload", "HTTP/2 200 ", []string{"--http2", "--data-binary", "@" + file, g.tls.URL}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"--silent", "--show-error", "--insecure", "--max-time", "10", "--include", "-H", "Host: www.example.com"}, c.args...)
			var stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), curl, args...)
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("curl: %v: %s", err, &stderr)
			}
			head, body, ok := bytes.Cut(out, []byte("\r\n\r\n"))
			if bytes.HasPrefix(head, []byte("HTTP/1.1 100")) {
				head, body, ok = bytes.Cut(body, []byte("\r\n\r\n"))
			}
			if !ok || !strings.HasPrefix(string(head)+" ", c.version) {
				t.Fatalf("head %q, want %q", head, c.version)
			}
			var e struct {
				Host   string
				Header map[string][]string
				Body   string
			}
			if err := json.Unmarshal(body, &e); err != nil {
				t.Fatal(err)
			}
			want := ""
			if strings.Contains(c.name, "upload") {
				want = upload
			}
			if e.Host != "www.example.com" || e.Body != want || e.Header["X-Envoy-External-Address"] == nil {
				t.Errorf("backend saw host %q, %d bytes, header %v", e.Host, len(e.Body), e.Header)
			}
		})
	}
}

// Servers that others wrote, with their own ways to frame a response: Python's
// speaks HTTP/1.0 and closes, nginx keeps connections and sends chunks.
func TestBackendsOfOtherMakes(t *testing.T) {
	const size = 3_000_000
	dir := t.TempDir()
	var content bytes.Buffer
	if err := keyed.Send(&content, 1, size, 10_000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), content.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nginx := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {} http { access_log off; server { listen 127.0.0.1:PORT; root %[1]s;
client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
keepalive_requests 3; gzip on; gzip_min_length 1; gzip_types *; } }`, dir)
	servers := map[string]func(t *testing.T, port string) *exec.Cmd{
		"python": func(t *testing.T, port string) *exec.Cmd {
			return exec.CommandContext(t.Context(), program(t, "python3"), "-m", "http.server", "--bind", "127.0.0.1", "--directory", dir, port)
		},
		"nginx": func(t *testing.T, port string) *exec.Cmd {
			conf := filepath.Join(dir, "nginx.conf")
			if err := os.WriteFile(conf, []byte(strings.ReplaceAll(nginx, "PORT", port)), 0o600); err != nil {
				t.Fatal(err)
			}
			return exec.CommandContext(t.Context(), program(t, "nginx"), "-c", conf, "-p", dir)
		},
	}
	for name, server := range servers {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			addr := ln.Addr().String()
			_ = ln.Close()
			_, port, _ := net.SplitHostPort(addr)
			cmd := server(t, port)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				if c, err := net.Dial("tcp", addr); err == nil {
					_ = c.Close()
					break
				} else if time.Now().After(deadline) {
					t.Fatalf("%s does not listen: %v", name, err)
				}
			}
			g := start(t, state{hosts: to(func(r *config.HTTPRule) { r.Match.Path = "/file" }), endpoints: map[string]string{"a": addr}})
			for i := range 12 {
				c, url := g.plain.Client(), g.plain.URL
				if i%2 == 1 {
					c, url = g.tls.Client(), g.tls.URL
				}
				res, err := c.Get(url + "/file") // asks for gzip, and undoes it
				if err != nil {
					t.Fatal(err)
				}
				if err := keyed.Receive(res.Body, 1, size); err != nil {
					t.Errorf("request %d: status %d: %v", i, res.StatusCode, err)
				}
				_ = res.Body.Close()
			}
			// A part of it, known by its length.
			if got := raw(t, g, "GET /file HTTP/1.1\r\nHost: x\r\nRange: bytes=0-9\r\nConnection: close\r\n\r\n"); name == "nginx" && !strings.HasPrefix(got, "HTTP/1.1 206 ") {
				t.Errorf("range: %.80q", got)
			}
		})
	}
}
