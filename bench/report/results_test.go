// SPDX-License-Identifier: Apache-2.0

package report

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

// figures is a run of two short rounds.
func figures(t *testing.T) *Report {
	t.Helper()
	r, err := Load("testdata/figures.json")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheResultsOfARunAreMadeOfItsJSON(t *testing.T) {
	dir := t.TempDir()
	r := figures(t)
	if err := r.WriteResults(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "2026-11-27-spliced.txt", "2026-11-27-haproxy.txt"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (go test ./bench/report -update writes it): %s", name, diff)
		}
	}
	again, err := Load(r.Results(dir))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, again); diff != "" {
		t.Error("the JSON is not what was read:", diff)
	}
}

// benchstat is a tool of the module beside.
func TestBenchstatComparesTwoGateways(t *testing.T) {
	dir := t.TempDir()
	r := figures(t)
	if err := r.WriteResults(dir); err != nil {
		t.Fatal(err)
	}
	file := func(peer string) string { return filepath.Join(dir, "2026-11-27-"+peer+".txt") }
	cmd := exec.Command("go", "tool", "benchstat", "-format", "csv", file("haproxy"), file("spliced"))
	cmd.Dir = "../picture"
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("benchstat: %v: %s", err, &complaints)
	}
	if strings.Contains(complaints.String(), "parsing") {
		t.Errorf("benchstat: %s", &complaints)
	}
	for _, row := range r.Rows {
		if row.Peer != Spliced {
			continue
		}
		i := slices.IndexFunc(r.Scenarios, func(s Scenario) bool { return s.Name == row.Scenario })
		name := strings.TrimPrefix(r.Scenarios[i].benchmark(), "Benchmark")
		_, line, ok := strings.Cut(string(out), "\n"+name)
		line, _, _ = strings.Cut(line, "\n")
		if fields := strings.Split(line, ","); !ok || len(fields) < 5 || fields[1] == "" || fields[3] == "" {
			t.Errorf("no %s of both in\n%s", name, out)
		}
	}
}

func TestTargetsAreJudgedByTheLowestFigures(t *testing.T) {
	kB := func(v float64) *float64 { return &v }
	r := Report{
		Peers: []string{Spliced, Relay, Reference, "nginx", Direct},
		Windows: []Window{
			{Round: 0, Scenario: "upload", Peer: Spliced, PerUnit: 0.6},
			{Round: 1, Scenario: "upload", Peer: Spliced, PerUnit: 0.4},
			{Round: 0, Scenario: "upload", Peer: Relay, PerUnit: 0.1},
			{Round: 0, Scenario: "upload", Peer: Reference, PerUnit: 1},
			{Round: 0, Scenario: "upload", Peer: "nginx", PerUnit: 0.8},
			{Round: 1, Scenario: "upload", Peer: "nginx", PerUnit: 0.1, Error: "broken"},
			{Round: 0, Scenario: "upload", Peer: Direct},
			{Round: 0, Scenario: "handshake resumed", Peer: Spliced, PerUnit: 100},
			{Round: 0, Scenario: "handshake resumed", Peer: "nginx", PerUnit: 100},
			{Round: 0, Scenario: "idle", Peer: Spliced, PerUnit: 3, Kernel: kB(4)},
			{Round: 0, Scenario: "idle", Peer: "nginx", PerUnit: 5, Kernel: kB(1)},
			{Round: 0, Scenario: "idle", Peer: Reference, PerUnit: 4}, // its kernel memory is not known
			{Round: 0, Scenario: "100 busy", Peer: Spliced, Latency: &Latency{P99: 100}},
			{Round: 0, Scenario: "100 busy beside 9000 idle", Peer: Spliced, Latency: &Latency{P99: 110}},
		},
	}
	want := map[string]verdict{
		"bulk, local backend: gateway CPU":                      {"not measured: upload x 8, download, download x 8", "upload 0.50 × nginx"},
		"resumed handshake: gateway CPU":                        {"**no**", "handshake resumed 1.00 × nginx"},
		"idle connection: RSS":                                  {"yes", "idle 3.00 kB"},
		"idle connection: RSS, kernel and BPF memory":           {"**no**", "idle 1.17 × nginx"},
		"100 busy beside 9,000 idle: p99, against without them": {"yes", "100 busy beside 9000 idle 1.10"},
		"5,000 server names: handshake CPU, against one":        {"not measured", ""},
	}
	for _, target := range targets {
		w, ok := want[target.work]
		if !ok {
			continue
		}
		delete(want, target.work)
		if diff := cmp.Diff(w, r.verdict(target), cmp.AllowUnexported(verdict{})); diff != "" {
			t.Errorf("%s: %s", target.work, diff)
		}
	}
	if len(want) > 0 {
		t.Errorf("no such targets: %v", want)
	}
}
