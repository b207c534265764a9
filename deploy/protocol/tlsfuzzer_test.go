// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bufio"
	"cmp"
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

// TestTLSFuzzer runs tlsfuzzer's scripts against the gateway and against
// crypto/tls alone, those that have a certificate of a client in both modes that the
// Gateway API has for it. Each conversation must end alike, with the same message where
// it fails, but for those that testdata/tlsfuzzer.txt lists with a reason.
func TestTLSFuzzer(t *testing.T) {
	dir := os.Getenv(tlsfuzzerEnv)
	if dir == "" {
		t.Skip("see the first line of the output")
	}
	f := &fuzzer{python: filepath.Join(install(t, "python"), "bin/python"), dir: dir}
	scripts := f.scripts(t)
	to := answering(t)
	want := f.all(scripts, reference.servers(t, to), nil)
	for _, s := range []subject{gateway, noRecord, noEventLoop} {
		t.Run(s.name, func(t *testing.T) {
			count := &figures.Figures{}
			figures.Record(t, count)
			differences := readDifferences(t)
			bare, servers := reference.servers(t, to), s.servers(t, to)
			got := f.all(scripts, servers, want)
			for range 2 { // the scripts wait for some seconds only, a busy machine may take longer
				again := differences.unlisted(want, got)
				if len(again) == 0 {
					break
				}
				f.merge(want, f.all(scripts, bare, again))
				f.merge(got, f.all(scripts, servers, again))
			}
			passed, listed := 0, 0
			for _, script := range slices.Sorted(maps.Keys(want)) {
				for _, name := range slices.Sorted(maps.Keys(want[script])) {
					count.Faults++
					w, g := want[script][name], cmp.Or(got[script][name], "it was not held")
					switch {
					case w == g && w == pass:
						passed++
					case w == g: // it fails
					case differences.list(script, name, g):
						listed++
					default:
						count.Failures++
						t.Errorf("%s: %s: %s; with crypto/tls alone: %s", script, name, g, w)
					}
				}
			}
			for _, d := range differences {
				held := slices.ContainsFunc(slices.Collect(maps.Keys(want[d.script])), d.conversation.MatchString)
				if held && !d.seen || want[d.script] == nil {
					t.Errorf("%s: %s is listed, and nothing of it differs", d.script, d.conversation)
				}
			}
			if passed == 0 {
				t.Error("no conversation passes")
			}
			all, certified := map[string]bool{}, map[string]bool{}
			for _, s := range scripts {
				all[s.name] = true
				if s.client.name != "" {
					certified[s.name] = true
				}
			}
			count.What = fmt.Sprintf("conversations of %d scripts of tlsfuzzer (commit %s), %d of them with certificates of clients: %d pass with both, %d fail with both by the same message, %d differ for a reason that is listed",
				len(all), f.commit(), len(certified), passed, int(count.Faults)-passed-listed-int(count.Failures), listed)
			t.Log(count.What)
		})
	}
}

// difference is what testdata/tlsfuzzer.txt lists.
type difference struct {
	script                string
	conversation, outcome *regexp.Regexp
	seen                  bool
}

type differences []*difference

// list tells whether a difference is listed, with this outcome.
func (d differences) list(script, conversation, outcome string) bool {
	for _, e := range d {
		if e.script == script && e.conversation.MatchString(conversation) && e.outcome.MatchString(outcome) {
			e.seen = true
			return true
		}
	}
	return false
}

// readDifferences reads the list: script, conversations, what becomes of them
// with the gateway, and the reason, with a tab between them.
func readDifferences(t *testing.T) (all differences) {
	t.Helper()
	text, err := os.ReadFile("testdata/tlsfuzzer.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 4 {
			t.Fatalf("testdata/tlsfuzzer.txt: %q has not four fields", line)
		}
		e := &difference{script: f[0]}
		var conversationErr, outcomeErr error
		e.conversation, conversationErr = regexp.Compile("^(" + f[1] + ")$")
		e.outcome, outcomeErr = regexp.Compile("^(" + f[2] + ")$")
		if err := errors.Join(conversationErr, outcomeErr); err != nil {
			t.Fatalf("testdata/tlsfuzzer.txt: %v", err)
		}
		all = append(all, e)
	}
	return all
}

// fuzzer runs scripts.
type fuzzer struct{ python, dir string }

// commit is that of the sources.
func (f *fuzzer) commit() string {
	out, err := exec.Command("git", "--git-dir", filepath.Join(f.dir, ".git"), "rev-parse", "HEAD").Output()
	if err != nil {
		return "not known"
	}
	return strings.TrimSpace(string(out))
}

// outcomes are what became of conversations: pass, or why not, by script and name.
type outcomes map[string]map[string]string

const pass = "it passes"

// unlisted are the conversations that have other outcomes, and are not listed.
func (d differences) unlisted(want, got outcomes) outcomes {
	all := outcomes{}
	for script, names := range want {
		for name, w := range names {
			if g := got[script][name]; g != w && !d.list(script, name, g) {
				if all[script] == nil {
					all[script] = map[string]string{}
				}
				all[script][name] = w
			}
		}
	}
	return all
}

// merge replaces outcomes by others.
func (f *fuzzer) merge(all, others outcomes) {
	for script, names := range others {
		maps.Copy(all[script], names)
	}
}

// all runs scripts, of each the conversations in only, or else what it chooses.
func (f *fuzzer) all(scripts []script, servers map[asking]running, only outcomes) outcomes {
	all := outcomes{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan script)
	for range 8 { // most of them wait for an answer that does not come
		wg.Go(func() {
			for s := range next {
				r := f.run(s, servers[s.asks], slices.Sorted(maps.Keys(only[s.String()])))
				mu.Lock()
				all[s.String()] = r
				mu.Unlock()
			}
		})
	}
	for _, s := range scripts {
		if only == nil || only[s.String()] != nil {
			next <- s
		}
	}
	close(next)
	wg.Wait()
	return all
}

// whole is the name for what is no conversation's.
const whole = "the whole script"

var conversation = regexp.MustCompile(`(?m)^(.*) \.\.\.$`)

// run runs a script, or some of its conversations.
func (f *fuzzer) run(s script, server running, only []string) map[string]string {
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, f.python, f.arguments(s, server, only)...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+f.dir)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	results := map[string]string{}
	starts := conversation.FindAllSubmatchIndex(out, -1)
	for i, at := range starts {
		end := len(out)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		text := string(out[at[1]:end])
		outcome := pass
		if !strings.HasPrefix(strings.TrimSpace(text), "OK") {
			outcome = lastError(text)
		}
		key := string(out[at[2]:at[3]])
		if old := results[key]; old == "" || old == pass { // "sanity" is held twice
			results[key] = outcome
		}
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		results[whole] = "does not end"
	case err != nil && !errors.As(err, &exit):
		results[whole] = err.Error()
	case len(starts) == 0:
		results[whole] = lastError(string(out))
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

// answer is what HTTP's requests are answered with; statusLine is its first line.
const (
	statusLine = "HTTP/1.0 200 OK"
	answer     = statusLine + "\r\nContent-Length: 0\r\n\r\n"
)

// answering is a backend as the scripts want it. Most of them send a request of
// HTTP/1.0, which ends with an empty line; the others want back what they send, line
// by line.
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
				request := false
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					switch request = request || strings.HasPrefix(line, "GET "); {
					case strings.TrimSpace(line) == "":
						_, _ = io.WriteString(c, answer)
						request = false
					case !request:
						_, _ = io.WriteString(c, line)
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}
