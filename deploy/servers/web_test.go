// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nginx asks FIONREAD only after it has filled a buffer, so what an upload does
// to its endpoint depends on when bytes come.
var web = []server{{
	name: "nginx", version: []string{"sh", "-c", "nginx -v 2>&1"},
	start: func(m *machine) netip.AddrPort {
		if err := os.Mkdir(filepath.Join(m.dir, "files"), 0o700); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.dir, "files", "large"), random(100<<20), 0o600); err != nil {
			m.t.Fatal(err)
		}
		return m.start(80, "nginx", "-p", m.dir, "-e", "stderr", "-c", m.file("nginx.conf", `
daemon off;
user root;
pid pid;
events {}
http {
	access_log off;
	client_body_temp_path body;
	client_max_body_size 0;
	server {
		listen 80;
		root files;
		location /small { return 200 "a small answer, $arg_n\n"; }
		location /put { dav_methods PUT; }
	}
}
`))
	},
	uses: []use{
		{client: "curl, 200 answers on a connection", run: smallAnswers},
		{client: "curl, 100 MB down", down: true, run: download},
		{client: "curl, 100 MB up", asks: true, run: upload},
		{client: "curl, 100 MB down by TCP", tcp: true, run: func(t *testing.T, g *gateway) int64 { return get(t, "http://"+name+":"+g.tcp) }},
	},
}}

func (g *gateway) curl(words ...string) []string {
	return append([]string{"-sSf", "--cacert", g.ca}, words...)
}

func smallAnswers(t *testing.T, g *gateway) (checked int64) {
	const answers = 200
	out := client(t, "", "curl", g.curl(fmt.Sprintf("https://%s:%s/small?n=[1-%d]", name, g.tls, answers))...)
	var want strings.Builder
	for i := range answers {
		fmt.Fprintf(&want, "a small answer, %d\n", i+1)
	}
	if out != want.String() {
		t.Errorf("curl says %.300q", out)
	}
	return int64(len(out))
}

func download(t *testing.T, g *gateway) int64 { return get(t, "https://"+name+":"+g.tls, g.curl()...) }

// get compares a file with the one that nginx has.
func get(t *testing.T, url string, options ...string) int64 {
	got := client(t, "", "curl", append(options, url+"/large")...)
	files, err := filepath.Glob(filepath.Join(site.dir, "nginx-*", "files", "large"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	want, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%d bytes came, not the %d of the file", len(got), len(want))
	}
	return int64(len(got))
}

// upload sends a file three times: the endpoint is known by the last one.
func upload(t *testing.T, g *gateway) (checked int64) {
	files, err := filepath.Glob(filepath.Join(site.dir, "nginx-*", "files"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	path := filepath.Join(t.TempDir(), "file")
	for i := range 3 {
		want := random(100 << 20)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		url := fmt.Sprintf("https://%s:%s/put%d", name, g.tls, i)
		if i == 0 && g.mayReset() {
			// One of the first connections is how the gateway gets to know nginx.
			_ = exec.CommandContext(t.Context(), "curl", g.curl("-T", path, url)...).Run()
		}
		client(t, "", "curl", g.curl("-T", path, url)...)
		got, err := os.ReadFile(filepath.Join(files[0], fmt.Sprintf("put%d", i)))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came, not the %d of the file: %v", len(got), len(want), err)
		}
		checked += int64(len(got))
	}
	return checked
}
