// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/bench/leak"
	"github.com/sluice-gateway/sluice/controller/translate"
)

func TestMain(m *testing.M) { os.Exit(leak.Of(m.Run).Run()) }

// service is a file with one Service for each name.
func service(names ...string) string {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: %s\nspec:\n  ports:\n  - port: 80\n", n)
	}
	return b.String()
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// seen is what a folder handed over last.
type seen struct {
	services []string // with the port where it is not 80
	problems []string // "file: message", the file without its folder
}

func look(dir string, r translate.Resources, problems []Problem) seen {
	var s seen
	for _, o := range r.Services {
		name := o.Name
		if len(o.Spec.Ports) > 0 && o.Spec.Ports[0].Port != 80 {
			name += fmt.Sprintf(":%d", o.Spec.Ports[0].Port)
		}
		s.services = append(s.services, name)
	}
	slices.Sort(s.services)
	for _, p := range problems {
		s.problems = append(s.problems, strings.TrimPrefix(strings.TrimPrefix(p.String(), dir), "/"))
	}
	return s
}

// running is a folder that is watched.
type running struct {
	t      *testing.T
	dir    string
	reread chan os.Signal
	out    chan seen
	last   seen
}

func watch(t *testing.T, dir string) *running {
	t.Helper()
	r := &running{t: t, dir: dir, reread: make(chan os.Signal, 1), out: make(chan seen, 1000)}
	f := &Folder{Dir: dir, Reread: r.reread}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- f.Run(ctx, func(res translate.Resources, p []Problem) { r.out <- look(dir, res, p) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// until waits for a state of the folder, and fails with the last one.
func (r *running) until(what string, ok func(seen) bool) {
	r.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case r.last = <-r.out:
			if ok(r.last) {
				return
			}
		case <-deadline:
			r.t.Fatalf("%s: did not happen; last seen: %+v", what, r.last)
		}
	}
}

func (r *running) untilServices(names ...string) {
	r.t.Helper()
	r.until("services "+strings.Join(names, " "), func(s seen) bool {
		return slices.Equal(s.services, names) && len(s.problems) == 0
	})
}

func (r *running) untilProblem(part string, names ...string) {
	r.t.Helper()
	r.until("problem "+part, func(s seen) bool {
		return slices.Equal(s.services, names) && len(s.problems) == 1 && strings.Contains(s.problems[0], part)
	})
}

func TestAFolderReadsLikeKubectlApply(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one", "two"))
	write(t, dir, "b.yml", service("three"))
	write(t, dir, "c.json", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"four"},"spec":{"ports":[{"port":80}]}}`)
	write(t, dir, "notes.txt", "not for us")
	write(t, dir, "d.yaml~", service("backup"))
	write(t, dir, ".d.yaml", service("hidden"))
	write(t, dir, "comments.yaml", "# nothing yet\n")
	if err := os.MkdirAll(filepath.Join(dir, "sub.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "sub.yaml"), "e.yaml", service("below"))
	watch(t, dir).untilServices("four", "one", "three", "two")
}

func TestAFolderThatIsNotThereIsAnError(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "")
	for name, want := range map[string]string{"none": "no such file or directory", "file": "not a directory"} {
		path := filepath.Join(dir, name)
		err := (&Folder{Dir: path}).Run(t.Context(), nil)
		if diff := cmp.Diff("read folder "+path+": "+want+"; give the folder that holds the YAML files", fmt.Sprint(err)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestChangesAreSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one"))
	r := watch(t, dir)
	r.untilServices("one")

	write(t, dir, "a.yaml", service("one", "two"))
	r.untilServices("one", "two")

	write(t, dir, "b.yaml", service("three"))
	r.untilServices("one", "three", "two")

	write(t, dir, ".a.yaml.new", service("four")) // as editors save
	if err := os.Rename(filepath.Join(dir, ".a.yaml.new"), filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	r.untilServices("four", "three")

	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	r.untilServices("four")
}

// The kubelet mounts a ConfigMap as links to a link to a folder with the time
// as its name, and swaps the link in the middle.
func TestAMountedConfigMapIsSwapped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	swap := func(version, content string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version), "a.yaml", content)
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	swap("..2026_01_01", service("one"))
	if err := os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	r := watch(t, dir)
	r.untilServices("one")
	for i := range 5 {
		name := fmt.Sprintf("service-%d", i)
		swap(fmt.Sprintf("..2026_02_0%d", i), service(name))
		r.untilServices(name)
	}
}

func TestLinksAreFollowedWhereverTheyLead(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, d := range []string{"v1", "v2", "elsewhere"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(root, "v1"), "a.yaml", service("one"))
	write(t, filepath.Join(root, "v2"), "a.yaml", service("two"))
	link := func(to, at string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(root, "tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(root, "tmp"), filepath.Join(root, at)); err != nil {
			t.Fatal(err)
		}
	}
	link("v1", "current")
	r := watch(t, filepath.Join(root, "current"))
	r.untilServices("one")

	link("v2", "current") // the folder itself is a link
	r.untilServices("two")

	write(t, filepath.Join(root, "elsewhere"), "b.yaml", service("three"))
	link("../elsewhere/b.yaml", "v2/b.yaml")
	r.untilServices("three", "two")

	write(t, filepath.Join(root, "elsewhere"), "b.new", service("four")) // the target is replaced
	if err := os.Rename(filepath.Join(root, "elsewhere/b.new"), filepath.Join(root, "elsewhere/b.yaml")); err != nil {
		t.Fatal(err)
	}
	r.untilServices("four", "two")
}

// A file that is written in many pieces is not read in between: no state is
// seen that the writer did not mean, as long as the pieces keep coming.
func TestAFileThatIsBeingWrittenIsNotReadInPieces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one", "two"))
	r := watch(t, dir)
	r.untilServices("one", "two")
	f, err := os.Create(filepath.Join(dir, "a.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	content := service("one", "two", "three")
	for i := 0; i < len(content); i += 20 {
		if _, err := f.WriteString(content[i:min(i+20, len(content))]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r.until("three services", func(s seen) bool {
		if len(s.services) < 2 {
			t.Errorf("seen in between: %+v", s)
		}
		return len(s.services) == 3 && len(s.problems) == 0
	})
}

func TestAFolderThatNeverGetsQuietIsReadAllTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one"))
	r := watch(t, dir)
	r.untilServices("one")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(quiet / 5):
				_ = os.WriteFile(filepath.Join(dir, "restless.txt"), []byte{byte(i)}, 0o600)
			}
		}
	}()
	write(t, dir, "b.yaml", service("two"))
	r.untilServices("one", "two")
	close(stop)
	<-done
}

func TestAFolderThatGoesAwayIsStillServedAndComesBack(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "conf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a.yaml", service("one"))
	r := watch(t, dir)
	r.untilServices("one")
	if err := os.Rename(dir, filepath.Join(root, "aside")); err != nil {
		t.Fatal(err)
	}
	r.untilProblem("what it held is still served", "one")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "a.yaml", service("two"))
	r.untilServices("two")
}

func TestRereadReadsAtOnceAndTellsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one"))
	r := watch(t, dir)
	r.untilServices("one")
	for range 3 {
		r.reread <- os.Interrupt
	}
	write(t, dir, "b.yaml", service("two"))
	r.untilServices("one", "two")
	if n := len(r.out); n > 0 {
		t.Errorf("%d further calls without a change", n)
	}
}
