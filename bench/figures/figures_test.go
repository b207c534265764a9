// SPDX-License-Identifier: Apache-2.0

package figures_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/bench/figures"
)

func TestATestLeavesItsFigures(t *testing.T) {
	dir := t.TempDir()
	t.Setenv(figures.Dir, dir)
	run := func(failed bool, connections int64) figures.Entry {
		t.Helper()
		f := &figures.Figures{What: "kills"}
		other := &test{name: "TestX/splice on", failed: failed}
		figures.Record(other, f)
		f.Connections = connections // after Record
		other.end()
		all, err := figures.Read(dir)
		if err != nil || len(all) != 1 || len(other.errors) > 0 {
			t.Fatalf("%v, %v, %v", all, err, other.errors)
		}
		if _, err := time.Parse(time.DateOnly, all[0].Date); err != nil || all[0].Kernel == "" {
			t.Errorf("date %q, kernel %q", all[0].Date, all[0].Kernel)
		}
		all[0].Date, all[0].Kernel = "", ""
		return all[0]
	}
	want := figures.Entry{Package: "bench/figures", Test: "TestX/splice on", Passed: true, Figures: figures.Figures{What: "kills", Connections: 3}}
	if diff := cmp.Diff(want, run(false, 3)); diff != "" {
		t.Error(diff)
	}
	want.Passed, want.Connections, want.Failures = false, 4, 1
	if diff := cmp.Diff(want, run(true, 4)); diff != "" {
		t.Errorf("its next run, which failed: %s", diff)
	}
}

func TestNobodyAskedForFigures(t *testing.T) {
	t.Setenv(figures.Dir, "")
	other := &test{name: "TestX"}
	figures.Record(other, &figures.Figures{})
	if len(other.cleanups) > 0 {
		t.Error("something is kept")
	}
}

// test is one whose end this test decides.
type test struct {
	name     string
	failed   bool
	cleanups []func()
	errors   []string
}

func (t *test) Helper()                        {}
func (t *test) Name() string                   { return t.name }
func (t *test) Failed() bool                   { return t.failed }
func (t *test) Cleanup(f func())               { t.cleanups = append(t.cleanups, f) }
func (t *test) Errorf(format string, _ ...any) { t.errors = append(t.errors, format) }

func (t *test) end() {
	for _, f := range t.cleanups {
		f()
	}
}
