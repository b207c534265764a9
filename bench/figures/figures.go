// SPDX-License-Identifier: Apache-2.0

// Package figures keeps what a test has counted, for RELIABILITY.md.
//
// Nothing is kept unless the environment variable SLUICE_FIGURES names a folder.
// There each test has a file of its own, which its next run replaces, whether it
// passes or fails.
package figures

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is the environment variable with the folder.
const Dir = "SLUICE_FIGURES"

// Figures are what a test counts. What it does not count is 0.
type Figures struct {
	Connections int64 `json:"connections,omitempty"`
	Bytes       int64 `json:"bytes,omitempty"` // that were compared with what they must be
	Faults      int64 `json:"faults,omitempty"`
	Failures    int64 `json:"failures,omitempty"`
	// What says in words what the faults were, or what else is worth knowing.
	What string `json:"what,omitempty"`
	// Server, Client, Path and Reason are of tests with a server that people run.
	Server string `json:"server,omitempty"`
	Client string `json:"client,omitempty"`
	Path   string `json:"path,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Inputs are those that a fuzz target has tried, in CPU seconds of its processes.
	Inputs     int64 `json:"inputs,omitempty"`
	CPUSeconds int64 `json:"cpu_seconds,omitempty"`
	// Kernel is the release of the kernel that was tested; empty: the machine's.
	Kernel string `json:"-"`
}

// Entry is a run of a test.
type Entry struct {
	Package string `json:"package"` // inside of the module
	Test    string `json:"test"`    // with the names of subtests, as go test prints it
	Figures
	Passed bool   `json:"passed"`
	Date   string `json:"date"`
	Kernel string `json:"kernel"`
}

// T is a *testing.T.
type T interface {
	Helper()
	Name() string
	Failed() bool
	Cleanup(f func())
	Errorf(format string, args ...any)
}

// Record keeps f, as it is when the test has ended, for the test that calls it.
// A test calls it once, before anything can fail.
func Record(t T, f *Figures) {
	t.Helper()
	dir := os.Getenv(Dir)
	if dir == "" {
		return
	}
	pkg := caller()
	t.Cleanup(func() {
		if t.Failed() {
			f.Failures = max(f.Failures, 1)
		}
		e := Entry{Package: pkg, Test: t.Name(), Figures: *f, Passed: !t.Failed(),
			Date: time.Now().UTC().Format(time.DateOnly), Kernel: f.Kernel}
		if err := e.Keep(dir); err != nil {
			t.Errorf("keep figures: %v", err)
		}
	})
}

// caller is the package of Record's caller, inside of the module.
func caller() string {
	pc, _, _, _ := runtime.Caller(2)
	name := runtime.FuncForPC(pc).Name() // github.com/owner/module/a/b_test.TestX.func1
	slash := strings.LastIndex(name, "/")
	dot := strings.Index(name[slash+1:], ".")
	parts := strings.SplitN(strings.TrimSuffix(name[:slash+1+dot], "_test"), "/", 4)
	return parts[len(parts)-1]
}

// Keep writes the entry into a folder.
func (e *Entry) Keep(dir string) error {
	if e.Kernel == "" {
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err
		}
		e.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, e.file()), append(text, '\n'), 0o644)
}

// file is the name of an entry's file.
func (e *Entry) file() string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '.'
	}, e.Package+"."+e.Test)
	return safe + ".json"
}

// Read reads what tests have left in a folder, sorted by the names of the files.
func Read(dir string) ([]Entry, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		var e Entry
		if err := d.Decode(&e); err != nil {
			return nil, fmt.Errorf("figures in %s: %w", f, err)
		}
		if e.file() != filepath.Base(f) {
			return nil, fmt.Errorf("figures in %s are of %s", f, e.file())
		}
		all = append(all, e)
	}
	return all, nil
}
