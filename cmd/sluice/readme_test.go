// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The bpftool session of the README is what bpftool prints: the kernel half's
// own test compares the golden file with the tool's output, and this one the
// README with the golden file, but for the numbers that differ each time.
func TestTheReadmeShowsWhatBpftoolPrints(t *testing.T) {
	readme, golden := dumps(t, "../../README.md"), dumps(t, "../../agent/splice/testdata/bpftool.txt")
	if len(readme) == 0 {
		t.Fatal("the README has no bpftool session")
	}
	for command, got := range readme {
		if diff := cmp.Diff(golden[command], got); diff != "" {
			t.Errorf("%s: testdata/bpftool.txt (-), README.md (+); go test ./agent/splice -update renews the former:\n%s", command, diff)
		}
	}
}

// dumps returns the outputs of bpftool in a file, by command, numbers aside.
func dumps(t *testing.T, path string) map[string]string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	numbers := regexp.MustCompile(`\b(PORT|COOKIE|SEQ|BYTES|N|[0-9]+)\b`)
	out := map[string]string{}
	for part := range strings.SplitSeq(string(b), "\n# ") {
		command, dump, _ := strings.Cut(part, "\n")
		command = strings.TrimPrefix(command, "# ")
		if dump, _, ok := strings.Cut(dump, "\n]"); ok && strings.HasPrefix(command, "bpftool map dump") {
			out[command] = numbers.ReplaceAllString(dump, "#")
		}
	}
	return out
}
