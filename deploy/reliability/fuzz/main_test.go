// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/sluice-gateway/sluice/bench/figures"
)

func TestOnlyTimeUp(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want bool
	}{
		"the coordinator's race": {`fuzz: elapsed: 5s, execs: 17942 (3810/sec), new interesting: 1 (total: 434)
--- FAIL: FuzzConversation (5.13s)
    context deadline exceeded
FAIL
exit status 1
FAIL	example.com/handover	5.142s
`, true},
		"an input whose failure is a deadline": {`--- FAIL: FuzzConversation (1.02s)
    --- FAIL: FuzzConversation (0.00s)
        fuzz_test.go:30: context deadline exceeded
    
    Failing input written to testdata/fuzz/FuzzConversation/5b1e
FAIL
`, false},
		"a hang": {`--- FAIL: FuzzConversation (5.13s)
    fuzzing process hung or terminated unexpectedly: exit status 2
    Failing input written to testdata/fuzz/FuzzConversation/5b1e
    context deadline exceeded
FAIL
`, false},
		"a known input that fails": {`--- FAIL: FuzzConversation (0.01s)
    --- FAIL: FuzzConversation/seed#0 (0.00s)
        fuzz_test.go:30: lost a byte
FAIL
`, false},
	} {
		if got := onlyTimeUp(c.out); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestRunsAddUpUntilOneFails(t *testing.T) {
	dir := t.TempDir()
	run := func(pkg string, passed bool, inputs, seconds int64) *figures.Entry {
		return &figures.Entry{Package: pkg, Test: "FuzzX", Passed: passed, Figures: figures.Figures{Inputs: inputs, CPUSeconds: seconds}}
	}
	for _, step := range []struct {
		run             *figures.Entry
		inputs, seconds int64
	}{
		{run("a", true, 10, 1), 10, 1},
		{run("b", true, 500, 50), 500, 50},
		{run("a", true, 20, 2), 30, 3},
		{run("a", false, 5, 1), 5, 1},
		{run("a", true, 40, 4), 40, 4},
		{run("a", true, 1, 1), 41, 5},
	} {
		pkg := step.run.Package
		if err := keep(step.run, dir); err != nil {
			t.Fatal(err)
		}
		kept, err := figures.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range kept {
			if e.Package == pkg && (e.Inputs != step.inputs || e.CPUSeconds != step.seconds) {
				t.Errorf("%s has %d inputs in %d s, want %d in %d", pkg, e.Inputs, e.CPUSeconds, step.inputs, step.seconds)
			}
		}
	}
}
