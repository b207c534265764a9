// SPDX-License-Identifier: Apache-2.0

// Package leak fails the tests of a package that leave something behind:
// goroutines, descriptors (sockets, BPF maps and programs, namespaces), threads
// in a network namespace, processes, pins, cgroups and named namespaces.
//
// It looks at nothing of other processes, so that packages are tested at the same
// time: pins and the like of a test are called Name.
package leak

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"go.uber.org/goleak"
)

// marker is in the environment of all that tests start.
const marker = "SLUICE_LEAK"

// shared are folders of the machine in which tests make files called Name.
var shared = []string{"/sys/fs/bpf", "/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory", "/run/netns"}

// Name is what names begin with of all that tests put into folders of the machine.
func Name() string { return fmt.Sprintf("sluice-test-%d-", os.Getpid()) }

// Tests are what testing.M is to TestMain, which calls os.Exit with what Run returns.
type Tests struct {
	run    func() int
	ignore []goleak.Option
}

// Of makes Tests of a function that runs them and cleans up after them. ignore has
// the goroutines that libraries never end.
func Of(run func() int, ignore ...goleak.Option) *Tests { return &Tests{run, ignore} }

// Run runs the tests, and says on standard error what they leave behind.
func (t *Tests) Run() int {
	if err := os.Setenv(marker, strconv.Itoa(os.Getpid())); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	before, err := start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := t.run()
	if code != 0 {
		return code // a test that failed may leave anything
	}
	if err := errors.Join(goleak.Find(t.ignore...), before.left(10*time.Second)); err != nil {
		fmt.Fprintf(os.Stderr, "the tests of this package leave something behind: %v\n", err)
		return 1
	}
	return 0
}

// state is what a process has.
type state struct {
	descriptors map[string]string // number to what it is
	space       string            // network namespace
}

func start() (*state, error) {
	// The runtime opens its epoll with the first file, and keeps it.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r.Close()
	w.Close()
	s := &state{descriptors: descriptors()}
	s.space, err = os.Readlink("/proc/self/ns/net")
	return s, err
}

// left returns what there is now beyond the state and does not go in a while.
func (s *state) left(wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; time.Sleep(10 * time.Millisecond) {
		runtime.GC() // closes files that are merely forgotten
		found := append(append(s.opened(), s.strayed()...), append(processes(), files()...)...)
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New(strings.Join(found, ", "))
		}
	}
}

func (s *state) opened() (found []string) {
	for fd, what := range descriptors() {
		if s.descriptors[fd] != what {
			found = append(found, fmt.Sprintf("descriptor %s (%s)", fd, what))
		}
	}
	return found
}

func descriptors() map[string]string {
	all := map[string]string{}
	links("/proc/self/fd/*", func(fd, what string) {
		if !strings.HasPrefix(what, "/proc/") { // the folder that is being read
			all[fd] = what
		}
	})
	return all
}

// strayed are threads in a namespace that is not ours. The first thread of a
// process cannot end, so where it has been to does not count.
func (s *state) strayed() (found []string) {
	links("/proc/self/task/*/ns/net", func(path, space string) {
		if thread := strings.Split(path, "/")[4]; space != s.space && thread != strconv.Itoa(os.Getpid()) {
			found = append(found, fmt.Sprintf("thread %s in %s", thread, space))
		}
	})
	return found
}

// links reads the links that a pattern finds and that are still there.
func links(pattern string, f func(path, target string)) {
	paths, _ := filepath.Glob(pattern) // the pattern is good
	for _, path := range paths {
		if target, err := os.Readlink(path); err == nil {
			f(path, target)
		}
	}
}

// processes are those with the environment of this one, whoever their parent is by
// now, and children that nobody has waited for.
func processes() (found []string) {
	self := strconv.Itoa(os.Getpid())
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		pid := strings.Split(path, "/")[2]
		environ, err := os.ReadFile(path)
		if err != nil || pid == self {
			continue // has ended, or is another user's
		}
		if strings.Contains("\x00"+string(environ), "\x00"+marker+"="+self+"\x00") {
			found = append(found, "process "+pid+" ("+command(pid)+")")
		}
	}
	paths, _ = filepath.Glob("/proc/self/task/*/children")
	for _, path := range paths {
		children, _ := os.ReadFile(path)
		for _, pid := range strings.Fields(string(children)) {
			found = append(found, "child "+pid+" ("+command(pid)+")")
		}
	}
	return found
}

func command(pid string) string {
	line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
	return strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
}

func files() (found []string) {
	for _, dir := range shared {
		paths, _ := filepath.Glob(filepath.Join(dir, Name()+"*"))
		found = append(found, paths...)
	}
	return found
}
