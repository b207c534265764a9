// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testSite(t *testing.T) Site {
	s := Site{
		Dir:     t.TempDir(),
		Listen:  netip.MustParseAddrPort("127.0.0.1:8443"),
		Backend: netip.MustParseAddrPort("198.18.0.2:7000"),
		Metrics: netip.MustParseAddrPort("127.0.0.1:9090"),
	}
	a, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{serverName, "other." + serverName} {
		id, err := a.issue(name, false)
		if err != nil {
			t.Fatal(err)
		}
		s.identities = append(s.identities, id)
	}
	return s
}

func TestPeersAcceptTheirConfiguration(t *testing.T) {
	check := map[string][]string{"haproxy": {"-c"}, "nginx": {"-t"}, "envoy": {"--mode", "validate"}, "hitch": {"--test"}}
	for _, p := range peers("") {
		flags, ok := check[p.Name]
		if !ok {
			continue
		}
		if _, err := p.Version(); err != nil {
			t.Log("skipping:", err)
			continue
		}
		modes := p.Modes
		if modes == nil {
			modes = []Mode{Terminate, Passthrough, Plain}
		}
		for _, mode := range modes {
			for _, c := range []struct{ workers, names int }{{0, 1}, {1, 2}} {
				s := testSite(t)
				s.Mode, s.Workers, s.identities = mode, c.workers, s.identities[:c.names]
				cmd, err := p.Command(s)
				if err != nil {
					t.Fatal(err)
				}
				out, err := exec.Command(cmd.Path, append(flags, cmd.Args[1:]...)...).CombinedOutput()
				if err != nil {
					t.Errorf("%s %q with %+v: %v: %s", p.Name, mode, c, err, out)
				}
			}
		}
	}
}

func TestEveryLineOfAPeersConfigurationIsExplained(t *testing.T) {
	files, err := fs.Glob(configs, "peers/*.c*") // YAML explains what is not structure
	if err != nil || len(files) < 8 {
		t.Fatalf("files %q, error %v", files, err)
	}
	for _, name := range files {
		raw, err := configs.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		explained := false
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimSpace(line)
			switch {
			case strings.HasPrefix(line, "#"), strings.HasPrefix(line, ";"):
				explained = true
			case line == "", line == "}":
				explained = false
			case strings.HasPrefix(line, "{{-"), strings.HasSuffix(line, "{"), !explained && !strings.Contains(line, " "):
			case !explained:
				t.Errorf("%s: no comment before %q", name, line)
			}
		}
	}
}

func TestSluiceServesTheBackendFromAFolder(t *testing.T) {
	s := testSite(t)
	cmd, err := sluice("relay", "/opt/sluice", "off").Command(s)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/opt/sluice", "run", "-splice", "off", "-admin", s.Dir + "/admin.sock",
		"-metrics", "127.0.0.1:9090", "-access-log", "off", s.Dir + "/objects"}
	if diff := cmp.Diff(want, cmd.Args); diff != "" {
		t.Error(diff)
	}
	raw, err := os.ReadFile(s.Dir + "/objects/sluice.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"value: 127.0.0.1\n", "port: 8443\n", "port: 7000\n", "- 198.18.0.2\n", "tls.key: " + s.Server().KeyPEM, "hostname: other." + serverName + "\n"} {
		if !strings.Contains(string(raw), part) {
			t.Errorf("objects have no %q", part)
		}
	}
}

func TestTheSplicedShareIsThatOfTheWindow(t *testing.T) {
	read := func(text string) *traffic {
		var sum traffic
		for line := range strings.Lines(text) {
			sum.add(strings.TrimSpace(line))
		}
		return &sum
	}
	before := read(`# TYPE sluice_bytes_total counter
sluice_bytes_total{direction="down",path="relay"} 100
sluice_bytes_total{direction="up",path="spliced"} 1000
sluice_splice_bytes_total{direction="up"} 500
sluice_other_total{direction="up"} 5`)
	after := read(`sluice_bytes_total{direction="up",path="relay"} 1200
sluice_bytes_total{direction="down",path="spliced"} 3e2
sluice_splice_bytes_total{direction="up"} 700
sluice_splice_bytes_total{direction="down"} 1e2`)
	if got := after.splicedSince(before); got == nil || *got != 0.75 {
		t.Errorf("share %v, want 0.75", got)
	}
	if got := (*traffic)(nil).splicedSince(nil); got != nil {
		t.Errorf("share %v of no bytes", *got)
	}
}
