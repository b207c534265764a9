// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// A claim whose test has another name by now would be "not run" for ever.
func TestEveryClaimHasATestThatCounts(t *testing.T) {
	for _, c := range claims {
		if c.pkg == "bpf/model" {
			continue // is a script
		}
		files, err := filepath.Glob(filepath.Join("../..", c.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(b)
		}
		if !strings.Contains(text.String(), "func "+c.test+"(") || !strings.Contains(text.String(), "figures.Record(") {
			t.Errorf("%s has no %s that keeps figures", c.pkg, c.test)
		}
	}
}

func TestThePageIsOfTheFigures(t *testing.T) {
	entries, err := figures.Read("figures")
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile("../../RELIABILITY.md")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page(claims, entries), string(committed)); diff != "" {
		t.Errorf("RELIABILITY.md is not what the figures say; make reliability: %s", diff)
	}
}

func TestAPage(t *testing.T) {
	claims := []claim{{"It holds.", "agent", "TestX", ""}, {"It mostly does.", "agent", "TestY", "the kernel"}, {"Nobody looked.", "agent", "TestXY", ""}}
	entries := []figures.Entry{
		{Package: "agent", Test: "TestX/splice_on", Passed: true, Date: "2026-01-02", Kernel: "6.18", Figures: figures.Figures{Connections: 1234567, Bytes: 2_500_000_000, Faults: 3, What: "kills"}},
		{Package: "agent", Test: "TestY", Date: "2026-01-02", Kernel: "6.18", Figures: figures.Figures{Connections: 12, Bytes: 999, Failures: 1}},
		{Package: "agent/handover", Test: "FuzzZ", Passed: true, Date: "2026-01-02", Kernel: "6.18", Figures: figures.Figures{Inputs: 1234567, CPUSeconds: 90}},
		{Package: "deploy/servers", Test: "TestServers/redis/get/splice", Passed: true, Date: "2026-01-02", Kernel: "6.18", Figures: figures.Figures{Server: "redis", Client: "get", What: "spliced: 2", Bytes: 7_000_000}},
	}
	got := page(claims, entries)
	for _, want := range []string{
		"\n| It holds. *splice on* | 1,234,567 | 2.5 GB | 3 (kills) | 0 | passed | 2026-01-02, 6.18 | `SLUICE_LONG=1 go test -count=1 -timeout 60m -run 'TestX$' ./agent` |\n",
		"\n| It mostly does. But: the kernel. | 12 | 999 |  | 1 | **failed** | 2026-01-02, 6.18 |",
		"\n| Nobody looked. | | | | | not run | |",
		"\n| agent/handover.FuzzZ | 1,234,567 | 1.5 | 0 | passed | 2026-01-02, 6.18 | `make fuzz TESTS='^agent/handover.FuzzZ$'` |\n",
		"\n| redis; get | splice | spliced: 2 | 7.0 MB | passed | 2026-01-02, 6.18 | `make servers TESTS='TestServers/redis/get/splice$'` |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
