// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// tlsfuzzerEnv is the environment variable with the folder of tlsfuzzer's
// sources (github.com/tlsfuzzer/tlsfuzzer), which neither Debian nor PyPI has.
const tlsfuzzerEnv = "TLSFUZZER"

// measures are scripts that measure times or need minutes for a conversation.
var measures = regexp.MustCompile(`timing|marvin|minerva|lucky13|bleichenbacher-workaround`)

// TestTLSFuzzer runs tlsfuzzer's scripts against the gateway and against
// crypto/tls alone. Each conversation must end alike, but for those that
// testdata/tlsfuzzer.txt lists with a reason.
func TestTLSFuzzer(t *testing.T) {
	dir := os.Getenv(tlsfuzzerEnv)
	if dir == "" {
		t.Skip("see the first line of the output")
	}
	python := filepath.Join(install(t, "python"), "bin/python")
	scripts, err := filepath.Glob(filepath.Join(dir, "scripts/test-*.py"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no script in %s: %v", dir, err)
	}
	scripts = slices.DeleteFunc(scripts, measures.MatchString)
	reasons := readReasons(t)
	count := &figures.Figures{}
	figures.Record(t, count)
	to := answering(t)
	f := &fuzzer{python: python, dir: dir,
		reference: reference.launch(t, to, site.pairs[1]), gateway: gateway.launch(t, to, site.pairs[1])}

	type result struct {
		script    string
		want, got map[string]string
	}
	results := make([]result, len(scripts))
	var wg sync.WaitGroup
	next := make(chan int)
	for range 4 { // most of them wait for an answer that does not come
		wg.Go(func() {
			for i := range next {
				r := &results[i]
				r.script = strings.TrimSuffix(filepath.Base(scripts[i]), ".py")
				r.want, r.got = f.compare(scripts[i])
			}
		})
	}
	for i := range scripts {
		next <- i
	}
	close(next)
	wg.Wait()

	passed, listed := 0, 0
	for _, r := range results {
		for _, name := range slices.Sorted(maps.Keys(r.want)) {
			count.Faults++
			key := r.script + ": " + name
			_, known := reasons[key]
			switch same := r.want[name] == "" == (r.got[name] == ""); {
			case same && known:
				t.Errorf("%s does not differ, but is listed", key)
			case same && r.want[name] == "":
				passed++
			case same:
			case known:
				listed++
			default:
				count.Failures++
				t.Errorf("%s differs: %s; with crypto/tls alone %s", key, verdict(r.got[name]), verdict(r.want[name]))
			}
			delete(reasons, key)
		}
	}
	for key := range reasons {
		t.Errorf("%s is listed, and was not run", key)
	}
	if passed == 0 {
		t.Error("no conversation passes")
	}
	count.What = fmt.Sprintf("conversations of %d scripts; with both alike %d pass and %d fail, %d differ for a reason that is listed",
		len(scripts), passed, int(count.Faults)-passed-listed-int(count.Failures), listed)
	t.Log(count.What)
}

func verdict(problem string) string {
	if problem == "" {
		return "it passes"
	}
	return problem
}

// readReasons reads the list of differences: script, conversation and reason,
// with a tab between them.
func readReasons(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("testdata/tlsfuzzer.txt")
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 3 {
			t.Fatalf("testdata/tlsfuzzer.txt: %q has not three fields", line)
		}
		reasons[f[0]+": "+f[1]] = f[2]
	}
	return reasons
}

// fuzzer runs scripts.
type fuzzer struct {
	python, dir        string
	reference, gateway running
}

// compare runs a script against both. A conversation that differs is held once
// more with each: the scripts wait for some seconds only. What passes has no
// problem.
func (f *fuzzer) compare(script string) (want, got map[string]string) {
	want = f.run(script, f.reference, nil)
	got = f.run(script, f.gateway, slices.Sorted(maps.Keys(want)))
	var differ []string
	for name := range want {
		if _, held := got[name]; !held {
			got[name] = "was not held"
		}
		if (want[name] == "") != (got[name] == "") {
			differ = append(differ, name)
		}
	}
	if len(differ) > 0 {
		maps.Copy(want, f.run(script, f.reference, differ))
		maps.Copy(got, f.run(script, f.gateway, differ))
	}
	return want, got
}

var conversation = regexp.MustCompile(`(?m)^(.*) \.\.\.$`)

// run runs a script, or some of its conversations.
func (f *fuzzer) run(script string, server running, only []string) map[string]string {
	host, port, _ := net.SplitHostPort(server.address)
	args := []string{script, "-h", host, "-p", port}
	name := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(script), ".py"), "-", "_")
	if source, err := os.ReadFile(filepath.Join(f.dir, "tlsfuzzer/_apps", name+".py")); err == nil && bytes.Contains(source, []byte("opt == '-d'")) {
		args = append(args, "-d") // ECDHE, not RSA
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.python, append(args, only...)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+f.dir)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	results := map[string]string{}
	starts := conversation.FindAllSubmatchIndex(out, -1)
	for i, s := range starts {
		end := len(out)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		text := string(out[s[1]:end])
		problem := ""
		if !strings.HasPrefix(strings.TrimSpace(text), "OK") {
			problem = lastError(text)
		}
		key := string(out[s[2]:s[3]])
		if results[key] == "" {
			results[key] = problem
		}
	}
	if ctx.Err() != nil || len(starts) == 0 {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = nil
		}
		results["the whole script"] = fmt.Sprintf("does not end, or holds no conversation %v", err)
	}
	return results
}

// lastError is the last line of a traceback.
func lastError(text string) string {
	last := "it fails"
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); strings.Contains(line, "Error") {
			last = line
		}
	}
	return last
}

// answer is the first line of every answer.
const answer = "HTTP/1.0 200 OK"

// answering is a backend that answers each empty line, as scripts that speak
// HTTP/1.0 want.
func answering(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if strings.TrimSpace(line) == "" {
						_, _ = io.WriteString(c, answer+"\r\nContent-Length: 0\r\n\r\n")
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
