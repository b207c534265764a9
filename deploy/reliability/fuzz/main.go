// SPDX-License-Identifier: Apache-2.0

// Fuzz runs the module's fuzz targets, one after the other, and adds what each has
// come to, for RELIABILITY.md, to what it had before where SLUICE_FIGURES names a
// folder. It fails when an input was found that fails, which go test leaves in the
// target's testdata.
//
// usage: fuzz [-for DURATION] [-parallel N] [-run REGEXP]
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

func main() {
	span := flag.Duration("for", time.Minute, "how long each target runs")
	parallel := flag.Int("parallel", runtime.GOMAXPROCS(0), "processes of a target")
	only := flag.String("run", "", "`regexp` of the targets to run, as package.FuzzName")
	flag.Parse()
	targets, err := find(".")
	if err == nil {
		err = run(targets, *span, *parallel, *only)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

type target struct{ pkg, name string }

var declaration = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(f \*testing\.F\)`)

// find returns the targets below a folder, without those of other modules in it.
func find(root string) (all []target, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range declaration.FindAllSubmatch(text, -1) {
			all = append(all, target{filepath.ToSlash(filepath.Dir(path)), string(m[1])})
		}
		return nil
	})
	return all, err
}

func run(targets []target, span time.Duration, parallel int, only string) error {
	chosen, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	ran, failed := 0, 0
	for _, t := range targets {
		if !chosen.MatchString(t.pkg + "." + t.name) {
			continue
		}
		ran++
		e, err := t.fuzz(span, parallel)
		if err != nil {
			fmt.Fprintf(os.Stderr, "fuzz: %s.%s: %v\n", t.pkg, t.name, err)
			failed++
			continue
		}
		if !e.Passed {
			failed++
		}
		if dir := os.Getenv(figures.Dir); dir != "" {
			if err := keep(e, dir); err != nil {
				return fmt.Errorf("keep figures: %w", err)
			}
		}
	}
	switch {
	case ran == 0:
		return fmt.Errorf("no target of %d is %q", len(targets), only)
	case failed > 0:
		return fmt.Errorf("%d of %d targets failed", failed, ran)
	}
	return nil
}

// keep writes a run's figures into a folder, with those of the runs before it. It
// begins anew with a run that failed, and with the one after that.
func keep(e *figures.Entry, dir string) error {
	kept, err := figures.Read(dir)
	if err != nil {
		return err
	}
	for _, before := range kept {
		if before.Package == e.Package && before.Test == e.Test && before.Passed && e.Passed {
			e.Inputs += before.Inputs
			e.CPUSeconds += before.CPUSeconds
		}
	}
	return e.Keep(dir)
}

// fuzz runs a target.
func (t target) fuzz(span time.Duration, parallel int) (*figures.Entry, error) {
	cmd := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", span.String(),
		"-fuzzminimizetime", "10x", "-parallel", strconv.Itoa(parallel), "./"+t.pkg)
	var out bytes.Buffer
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = os.Stderr
	runErr := cmd.Run()
	if cmd.ProcessState == nil {
		return nil, runErr
	}
	if onlyTimeUp(out.String()) {
		runErr = nil
	}
	e := &figures.Entry{Package: t.pkg, Test: t.name, Passed: runErr == nil, Date: time.Now().UTC().Format(time.DateOnly)}
	e.Inputs = inputs(out.String())
	// With what the compiler took, if it had to; the process has waited for all of it.
	e.CPUSeconds = int64((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
	switch {
	case runErr != nil:
		e.Failures = 1
	case e.Inputs == 0 && span < 10*time.Minute: // what it knows already took all of it
		return t.fuzz(2*span, parallel)
	case e.Inputs == 0:
		return nil, fmt.Errorf("it tried nothing: %s", out.String())
	}
	return e, nil
}

// timeUp is all that go test says when a target's time is up and its coordinator
// takes that for a failure, by a race of its own (golang/go#75804). An input
// that fails, a crash and a hang have more lines.
var timeUp = regexp.MustCompile(`(?m)^--- FAIL: Fuzz\w+ \(.*\)\n    context deadline exceeded\nFAIL$`)

// onlyTimeUp says whether what go test printed is no failure of the target's.
func onlyTimeUp(out string) bool {
	return timeUp.MatchString(out) && !strings.Contains(out, "Failing input")
}

var progress = regexp.MustCompile(`(?m)^fuzz: elapsed: .*, execs: (\d+) \(`)

// inputs is how many were tried, as go test said last.
func inputs(out string) int64 {
	all := progress.FindAllStringSubmatch(out, -1)
	if all == nil {
		return 0
	}
	n, _ := strconv.ParseInt(all[len(all)-1][1], 10, 64)
	return n
}
