// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// TestBoGo runs BoringSSL's tests of servers against the gateway and against
// crypto/tls alone. Each test must end alike.
func TestBoGo(t *testing.T) {
	dir := install(t, "bogo")
	want, _ := bogo(t, dir, reference, "*")
	for _, s := range []subject{gateway, noRecord, noEventLoop} {
		t.Run(s.name, func(t *testing.T) {
			count := &figures.Figures{}
			figures.Record(t, count)
			got, skipped := bogo(t, dir, s, "*")
			different := func() (names []string) {
				for name := range want {
					if got[name].Actual != want[name].Actual {
						names = append(names, name)
					}
				}
				return names
			}
			if names := different(); len(names) > 0 && len(names) < 20 {
				// The runner waits 15 seconds for what takes a busy machine longer.
				t.Logf("again, because they differ: %s", strings.Join(names, ", "))
				again, _ := bogo(t, dir, s, strings.Join(names, ";"))
				maps.Copy(got, again)
			}
			passed := 0
			for _, v := range got {
				if v.Actual != "SKIP" {
					count.Faults++
				}
				if v.Actual == "PASS" {
					passed++
				}
			}
			for _, name := range slices.Sorted(slices.Values(different())) {
				count.Failures++
				t.Errorf("%s: %s, with crypto/tls alone %s\n%s\n%s", name, got[name].Actual, want[name].Actual, got[name].Error, want[name].Error)
			}
			if passed == 0 {
				t.Error("no test passes")
			}
			count.What = fmt.Sprintf("BoringSSL's tests of servers, of which %d pass with both; not run: %d tests of clients, and %d of configurations that a gateway does not have",
				passed, skipped.clients, skipped.others)
		})
	}
}

// outcome is what the runner says of a test.
type outcome struct {
	Actual string
	Error  string
}

// skips counts the tests that do not apply.
type skips struct{ clients, others int }

// bogo runs the tests whose names match patterns, against a subject.
func bogo(t *testing.T, dir string, s subject, patterns string) (map[string]outcome, skips) {
	t.Helper()
	out, skipped := filepath.Join(t.TempDir(), "out.json"), filepath.Join(t.TempDir(), "skipped")
	config := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(config, []byte(`{"DisabledTests": {}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "runner"), "-test.timeout", "1h", "-shim-path", os.Args[0], "-shim-config", config,
		"-allow-unimplemented", "-loose-errors", "-pipe", "-json-output", out, "-test", patterns, "-skip", "*DTLS*;*QUIC*;*Async*")
	cmd.Dir = filepath.Join(dir, "src/ssl/test/runner")
	cmd.Env = append(os.Environ(), shimEnv+"="+s.name, shimLogEnv+"="+skipped)
	text, runError := cmd.CombinedOutput() // an error where a test fails
	var results struct{ Tests map[string]outcome }
	raw, err := os.ReadFile(out)
	if err == nil {
		err = json.Unmarshal(raw, &results)
	}
	if err != nil {
		t.Fatalf("%v, %v\n%.2000s", err, runError, text)
	}
	if len(results.Tests) == 0 {
		t.Fatalf("no test ran: %v\n%.2000s", runError, text)
	}
	var n skips
	raw, _ = os.ReadFile(skipped)
	for line := range bytes.Lines(raw) {
		if strings.TrimSpace(string(line)) == clientTest {
			n.clients++
		} else {
			n.others++
		}
	}
	return results.Tests, n
}

// install gets an attacker, and returns where it is.
func install(t *testing.T, what string) (dir string) {
	t.Helper()
	if out, err := exec.Command("./install.sh", what).CombinedOutput(); err != nil {
		t.Fatalf("install.sh %s: %v\n%s", what, err, out)
	}
	dir, err := filepath.Abs(filepath.Join("../../build/protocol", what))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
