// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/controller/folder"
	lints "github.com/sluice-gateway/sluice/controller/lint"
)

// paths is a flag that may be given many times.
type paths []string

func (p *paths) String() string { return strings.Join(*p, ",") }

func (p *paths) Set(s string) error {
	if s == "" {
		return fmt.Errorf("needs a path")
	}
	*p = append(*p, s)
	return nil
}

// lint checks files before anything serves them.
func lint(e *env, flags *flag.FlagSet, args []string) error {
	var files paths
	flags.Var(&files, "f", "`path` of a file or folder, as kubectl apply takes it, - for standard input; may be repeated")
	class := flags.String("class", className, "`name` of the GatewayClass that is of Sluice where the files have none")
	strict := flags.Bool("strict", false, "warnings count for the exit status")
	output := flags.String("o", "text", "output `format`: text or json")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := oneOf("-o", *output, "text", "json"); err != nil {
		return err
	}
	if len(files) == 0 {
		return usageError("-f is required: a file, a folder, or - for standard input")
	}
	read, err := folder.Read(files, os.Stdin)
	found := lints.Check(read, err, lints.Options{Controller: controllerName, Class: *class, Now: time.Now()})
	if *output == "json" {
		if found == nil {
			found = []lints.Finding{}
		}
		if err := printJSON(e.stdout, found); err != nil {
			return err
		}
	} else {
		s := screen{e.stdout, time.Now(), terminalWidth(e.stdout)}
		s.findings(found)
	}
	for _, f := range found {
		if f.Severity == lints.Error || f.Severity == lints.Warning && *strict {
			return errWrong
		}
	}
	return nil
}

// findings prints one line for each, with what would cure it below.
func (s *screen) findings(all []lints.Finding) {
	n := map[lints.Severity]int{}
	for _, f := range all {
		n[f.Severity]++
		at := f.File
		if f.Line > 0 {
			at += fmt.Sprintf(":%d", f.Line)
		}
		var parts []string
		for _, p := range []string{at, string(f.Severity), f.Object, f.Message} {
			if p != "" {
				parts = append(parts, p)
			}
		}
		s.line("", "%s [%s]", strings.Join(parts, ": "), f.Rule)
		s.block(f.Fix)
	}
	s.line("", "%s, %s, %s", count(n[lints.Error], "error"), count(n[lints.Warning], "warning"), count(n[lints.Note], "note"))
}

// block prints text that is to be copied: indented, and never folded.
func (s *screen) block(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.w, "    %s\n", oneLine(strings.TrimSuffix(line, "\n")))
	}
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func printJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(v)
}
