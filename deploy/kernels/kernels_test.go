// SPDX-License-Identifier: Apache-2.0

//go:build kernels

package kernels

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// The gateway's tests by keyed streams, each with the splice on and off.
var (
	gateway = []string{"agent.test", "-test.v", "-test.short", "-test.timeout=60m"}
	streams = "^(TestEveryByteArrivesInOrderAndAtItsOwnConnection|TestAStalledReaderHoldsUpTheSender|TestEachEndSeesHowTheOtherOneStopped|" +
		"TestADeletedRouteLosesNoUnreadByte|TestBackendsThatReadBySplice|TestAClockThatJumpsEndsNothing)$"
	relayed = []string{"TestEveryByteArrivesInOrderAndAtItsOwnConnection/splice_off", "TestAStalledReaderHoldsUpTheSender/to_the_backend/splice_off",
		"TestAStalledReaderHoldsUpTheSender/to_the_client/splice_off", "TestEachEndSeesHowTheOtherOneStopped/splice_off",
		"TestADeletedRouteLosesNoUnreadByte/splice_off", "TestBackendsThatReadBySplice/after_a_header/splice_off",
		"TestAClockThatJumpsEndsNothing/splice_off"}
)

// debian are the kernels of Debian 12: its own, and the newer one that it offers,
// this one for the other architecture of the image, too.
var debian = []struct {
	name string
	arch string
	pkg  string // which depends on the newest image
	jobs []job
}{
	{"6.12", "amd64", "linux-image-6.12-cloud-amd64", spliced},
	{"6.1", "amd64", "linux-image-cloud-amd64", []job{
		{name: "doctor", command: []string{"sluice", "doctor"}, exit: 1, says: []string{
			"the splice needs Linux 6.3", "Relay mode: splice unavailable (kernel): ", "The gateway serves here without the splice."}},
		{name: "gateway", command: slices.Concat(gateway, []string{"-test.run=" + streams, "-test.skip=./splice_on|././splice_on"}), passes: relayed},
	}},
	{"6.12 arm64", "arm64", "linux-image-6.12-cloud-arm64", spliced},
}

// spliced are the jobs on a kernel on which the splice works.
var spliced = []job{
	{name: "doctor", command: []string{"sluice", "doctor"}, says: []string{"The splice works on this machine."}},
	{name: "splice", command: []string{"splice.test", "-test.v", "-test.timeout=60m"},
		passes: []string{"TestSelfTestHolds", "TestRequestsAndResponsesAreSpliced", "TestStreamsArriveWholeAndInOrder", "TestFirstBytesKeepTheirPlace",
			"TestStalledReaderIsBounded", "TestUnreadBytesSurviveChanges", "TestSameAddressesInAnotherNamespaceGetNothing",
			"TestReusedPortsDoNotMixConnections", "TestBackendThatSplicesGetsItsBytes", "TestLateSplicerIsResetAndRemembered",
			"TestReaderThatTurnsToSpliceGetsNoByteOutOfOrder", "TestWaitingWriterIsNotLeftBehind", "TestKilledAgentLosesNothing", "TestMultipathTCP"},
		// One needs bpftool, the other version 1 of cgroups, and neither is there.
		skips: []string{"TestBpftoolShowsTheMapsByName", "TestBackendAtItsMemoryLimitGetsTheRestByTCP"}},
	{name: "gateway", command: slices.Concat(gateway, []string{"-test.run=" + streams}),
		passes: slices.Concat(relayed, []string{"TestEveryByteArrivesInOrderAndAtItsOwnConnection/splice_on", "TestAStalledReaderHoldsUpTheSender/to_the_backend/splice_on",
			"TestAStalledReaderHoldsUpTheSender/to_the_client/splice_on", "TestEachEndSeesHowTheOtherOneStopped/splice_on",
			"TestADeletedRouteLosesNoUnreadByte/splice_on", "TestAClockThatJumpsEndsNothing/splice_on"})},
}

// job is one for the guest, and what must come of it.
type job struct {
	name    string
	command []string
	exit    int
	says    []string // in its lines
	passes  []string // tests that must
	skips   []string // tests that may
}

// TestKernels runs the jobs on each kernel. The kernel's own log must be free of
// what a kernel says about its faults.
func TestKernels(t *testing.T) {
	for _, k := range debian {
		t.Run(k.name, func(t *testing.T) {
			g := boot(t, k.arch, unpack(t, k.arch, k.pkg), programs(t, k.arch), k.jobs)
			for _, j := range k.jobs {
				t.Run(j.name, func(t *testing.T) {
					count := &figures.Figures{}
					figures.Record(t, count)
					count.Kernel = g.release
					j.judge(t, g.jobs[j.name], count)
				})
			}
			if g.failure != nil {
				t.Errorf("%v\nthe end of the console:\n%s", g.failure, tail(g.console, 4000))
			}
			if faults := kernelFault.FindAllString(g.console, 10); faults != nil {
				t.Errorf("the kernel complains: %q\n%s", faults, tail(g.console, 8000))
			}
		})
	}
}

var kernelFault = regexp.MustCompile(`(?m)^.*(\bBUG\b|\bOops\b|WARNING: |general protection fault|refcount_t|KASAN|list_(add|del) corruption|Call Trace).*$`)

var verdict = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)

func (j job) judge(t *testing.T, r *result, count *figures.Figures) {
	if r == nil || r.exit == nil {
		t.Errorf("did not end; its last lines:\n%s", strings.Join(r.last(40), "\n"))
		return
	}
	text := strings.Join(r.lines, "\n")
	if *r.exit != j.exit {
		t.Errorf("exit status %d, want %d:\n%s", *r.exit, j.exit, text)
	}
	for _, s := range j.says {
		if !strings.Contains(text, s) {
			t.Errorf("does not say %q:\n%s", s, text)
		}
	}
	tests := map[string]string{}
	passed := 0
	for _, line := range r.lines {
		m := verdict.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		tests[m[2]] = m[1]
		switch {
		case m[1] == "PASS":
			passed++
		case m[1] == "FAIL":
			count.Failures++
			t.Errorf("%s failed:\n%s", m[2], text)
		case !slices.Contains(j.skips, m[2]):
			t.Errorf("%s was skipped:\n%s", m[2], text)
		}
	}
	for _, name := range j.passes {
		if tests[name] != "PASS" {
			t.Errorf("%s has not passed: %q", name, tests[name])
		}
	}
	for _, e := range r.figures {
		count.Connections += e.Connections
		count.Bytes += e.Bytes
		count.Failures += e.Failures
	}
	count.What = r.summary(passed)
	t.Logf("%s\n%s", count.What, text)
}

// result is what a job has told.
type result struct {
	lines   []string
	exit    *int
	figures []figures.Entry
}

func (r *result) last(n int) []string {
	if r == nil {
		return nil
	}
	return r.lines[max(0, len(r.lines)-n):]
}

// summary is what the page says of a job: how many tests have passed, or what
// sluice doctor found.
func (r *result) summary(passed int) string {
	if passed > 0 {
		return fmt.Sprintf("%d tests and parts of them", passed)
	}
	for _, line := range r.lines {
		if strings.HasPrefix(line, "Relay mode: ") {
			return line
		}
	}
	return strings.Join(r.last(1), "")
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// programs builds what the guests of an architecture run, into a folder that it
// returns.
func programs(t *testing.T, arch string) string {
	t.Helper()
	dir := filepath.Join("..", "..", "build", "kernels", arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"sluice":      {"build", "./cmd/sluice"},
		"init":        {"build", "./deploy/kernels/guest"},
		"splice.test": {"test", "-c", "./agent/splice"},
		"agent.test":  {"test", "-c", "./agent"},
	} {
		at := len(args) - 1
		args = slices.Concat(args[:at], []string{"-ldflags=-s -w", "-o", "build/kernels/" + arch + "/" + name}, args[at:])
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	return dir
}

// run runs a command in a folder and returns what it printed.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// unpack gets the newest image that a package depends on, which apt has checked
// to be Debian's, and returns the folder with its files.
func unpack(t *testing.T, arch, pkg string) string {
	t.Helper()
	cache := filepath.Join("..", "..", "build", "kernels")
	options := apt(t, cache, arch)
	image := ""
	for line := range strings.Lines(run(t, cache, "apt-cache", append(options, "depends", "--important", pkg)...)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok {
			image = name
		}
	}
	if image == "" {
		t.Fatalf("%s depends on no image", pkg)
	}
	debs, err := filepath.Glob(filepath.Join(cache, image+"_*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	if len(debs) == 0 {
		run(t, cache, "apt-get", append(options, "download", "-qq", image)...)
		if debs, err = filepath.Glob(filepath.Join(cache, image+"_*.deb")); err != nil || len(debs) == 0 {
			t.Fatalf("apt-get download %s left no file: %v", image, err)
		}
	}
	dir := t.TempDir()
	run(t, "", "dpkg-deb", "--extract", debs[0], dir)
	return dir
}

// apt returns the options by which apt knows an architecture's packages, with a
// state of its own: the machine's is not to learn a foreign architecture.
func apt(t *testing.T, cache, arch string) []string {
	t.Helper()
	state, err := filepath.Abs(filepath.Join(cache, "apt-"+arch))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(state, "status"), nil, 0o644); err != nil { // nothing is installed
		t.Fatal(err)
	}
	options := []string{"-o", "APT::Architecture=" + arch, "-o", "APT::Architectures=" + arch, "-o", "Acquire::Languages=none",
		"-o", "Dir::State=" + state, "-o", "Dir::State::status=" + filepath.Join(state, "status"), "-o", "Dir::Cache=" + state}
	run(t, cache, "apt-get", append(options, "update", "-qq")...)
	return options
}

func decode(text []byte) (e figures.Entry, err error) {
	err = json.Unmarshal(text, &e)
	return e, err
}
