// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// texts are those of an SVG file.
func texts(t *testing.T, path string) (all []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := false
	for d := xml.NewDecoder(f); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			in = e.Name.Local == "text"
		case xml.CharData:
			if in {
				all = append(all, string(e))
			}
		case xml.EndElement:
			in = false
		}
	}
}

const figures = `{
 "time": "2026-11-27T02:00:00Z",
 "host": {"kernel": "6.18.1", "cpu": "Some CPU", "cpus": 2},
 "scenarios": [
  {"name": "upload", "kind": "bulk", "unit": "s/GB"}, {"name": "download", "kind": "bulk", "unit": "s/GB"},
  {"name": "idle", "kind": "idle connections", "unit": "kB RSS"}, {"name": "not measured", "kind": "other", "unit": "s"}
 ],
 "peers": ["spliced", "haproxy", "nginx", "direct"],
 "rows": [
  {"scenario": "upload", "peer": "spliced", "rounds": 6, "best": {"to": "nginx", "median": 0.48, "low": 0.41, "high": 0.55}},
  {"scenario": "upload", "peer": "haproxy", "rounds": 6, "best": {"to": "nginx", "median": 4.5, "low": 4.2, "high": 5.5}},
  {"scenario": "upload", "peer": "nginx", "rounds": 6},
  {"scenario": "upload", "peer": "direct", "rounds": 6},
  {"scenario": "download", "peer": "haproxy", "rounds": 0, "failed": 6},
  {"scenario": "download", "peer": "nginx", "rounds": 6},
  {"scenario": "download", "peer": "spliced", "rounds": 1, "best": {"to": "nginx", "median": 0.9}},
  {"scenario": "idle", "peer": "spliced", "rounds": 1, "best": {"to": "haproxy", "median": 0.3}},
  {"scenario": "idle", "peer": "haproxy", "rounds": 1}
 ]
}`

func TestAPictureOfEachKindNamesEveryGatewayAndTheMachine(t *testing.T) {
	dir := t.TempDir()
	run := filepath.Join(dir, "figures.json")
	if err := os.WriteFile(run, []byte(figures), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := pictures(run, out, map[string]theme{".svg": light, "-dark.svg": dark, ".png": light}); err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[string][]string{
		"bulk": {
			"Bulk: gateway CPU, × that of the best other gateway",
			"Some CPU, 2 CPUs, Linux 6.18.1, 2026-11-27; medians of paired rounds, 95 % intervals",
			"upload", "spliced 0.48", "haproxy 4.50", "nginx 1.00", "download", "spliced 0.90", "nginx 1.00",
		},
		"idle-connections": {
			"Idle connections: memory (RSS), × that of the best other gateway",
			"Some CPU, 2 CPUs, Linux 6.18.1, 2026-11-27; medians of paired rounds, 95 % intervals",
			"idle", "spliced 0.30", "haproxy 1.00",
		},
		"overview": {
			"Gateway CPU for the same work, of idle connections memory (RSS), × that of the best other gateway",
			"Some CPU, 2 CPUs, Linux 6.18.1, 2026-11-27; medians of paired rounds, 95 % intervals",
			"upload", "spliced 0.48", "haproxy 4.50", "nginx 1.00", "download", "spliced 0.90", "nginx 1.00",
			"idle", "spliced 0.30", "haproxy 1.00",
		},
	} {
		name := filepath.Join(out, "2026-11-27-"+kind)
		for _, end := range []string{".svg", "-dark.svg"} {
			got := texts(t, name+end)
			for _, text := range want {
				i := slices.Index(got, text)
				if i < 0 {
					t.Errorf("%s%s has no more %q", kind, end, text)
					continue
				}
				got = slices.Delete(got, i, i+1)
			}
			if i := slices.IndexFunc(got, func(text string) bool { return strings.Contains(text, ".") && len(text) > 3 }); i >= 0 {
				t.Errorf("%s%s says %q", kind, end, got[i])
			}
		}
		f, err := os.Open(name + ".png")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := png.Decode(f); err != nil {
			t.Errorf("%s.png: %v", kind, err)
		}
	}
	if files, err := os.ReadDir(out); err != nil || len(files) != 9 {
		t.Errorf("%d files of two kinds and an overview, error %v", len(files), err)
	}
}

func TestEveryGatewayHasAColor(t *testing.T) {
	raw, err := os.ReadFile("../report/testdata/figures.json")
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	for _, peer := range r.Peers {
		if _, ok := colors[peer]; !ok && peer != "direct" {
			t.Errorf("%s has none", peer)
		}
	}
}
