// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/controller/translate"
)

func TestAFileThatTurnsBadKeepsWhatItHeld(t *testing.T) {
	bad := []struct {
		name, want string
		spoil      func(path string) error
	}{
		{"not YAML", "not YAML", func(p string) error { return os.WriteFile(p, []byte("a: [1,\nb"), 0o600) }},
		{"cut in the middle", "a.yaml", func(p string) error {
			return os.WriteFile(p, []byte(service("one")[:58]), 0o600)
		}},
		{"NUL bytes", "a.yaml", func(p string) error { return os.WriteFile(p, make([]byte, 100), 0o600) }},
		{"not UTF-8", "a.yaml", func(p string) error { return os.WriteFile(p, []byte("kind: \xff\xfe"), 0o600) }},
		{"an unknown field", "a.yaml", func(p string) error {
			return os.WriteFile(p, []byte(strings.Replace(service("one"), "ports", "prots", 1)), 0o600)
		}},
		{"empty", "the file is empty; delete it to remove its objects", func(p string) error { return os.WriteFile(p, nil, 0o600) }},
		{"only white space", "the file is empty", func(p string) error { return os.WriteFile(p, []byte("\n \n"), 0o600) }},
		{"too large", "more than the 16 MiB that a file may have", func(p string) error { return os.Truncate(p, maxFile+1) }},
		{"a dangling link", "no such file or directory", func(p string) error {
			return os.Symlink("nowhere", p+".new")
		}},
		{"a named pipe", "not a regular file", func(p string) error { return unix.Mkfifo(p+".new", 0o600) }},
		{"a link to a folder", "not a regular file", func(p string) error { return os.Symlink(".", p+".new") }},
		{"a read error", "input/output error", func(p string) error { return os.Symlink("/proc/self/mem", p+".new") }},
		{"unreadable", "permission denied", func(p string) error { return os.Chmod(p, 0) }},
	}
	for _, c := range bad {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.name == "unreadable" && os.Geteuid() == 0 {
				t.Skip("root reads everything")
			}
			dir := t.TempDir()
			path := filepath.Join(dir, "a.yaml")
			write(t, dir, "a.yaml", service("one"))
			write(t, dir, "b.yaml", service("two"))
			r := watch(t, dir)
			r.untilServices("one", "two")
			if err := c.spoil(path); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(path + ".new"); err == nil {
				if err := os.Rename(path+".new", path); err != nil {
					t.Fatal(err)
				}
			}
			r.untilProblem(c.want, "one", "two")

			write(t, dir, "b.yaml", service("three")) // other files go on
			r.untilProblem(c.want, "one", "three")

			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			r.untilServices("three")

			write(t, dir, "a.yaml", service("four"))
			r.untilServices("four", "three")
		})
	}
}

func TestWhatIsGoodInABadFileCounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one", "two"))
	r := watch(t, dir)
	r.untilServices("one", "two")
	write(t, dir, "a.yaml", service("one", "three")+"---\nkind: [\n")
	r.untilProblem("a.yaml", "one", "three", "two")
	write(t, dir, "a.yaml", service("one", "three"))
	r.untilServices("one", "three")
}

func TestWhatCannotBeReadIsKnownUntilItIsMended(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bad := strings.Replace(service("one"), "ports", "prots", 1)
	f := Folder{Dir: dir}
	for _, c := range []struct {
		text string
		want map[translate.Key]string
	}{
		{bad, map[translate.Key]string{{Kind: "Service", Namespace: "default", Name: "one"}: dir + "/a.yaml:2"}},
		{bad + "---\nkind: [\n", map[translate.Key]string{{Kind: "Service", Namespace: "default", Name: "one"}: dir + "/a.yaml:2", {}: dir + "/a.yaml:10"}},
		{service("one") + "---\nkind: [\n", map[translate.Key]string{{}: dir + "/a.yaml:10"}},
		{service("one"), map[translate.Key]string{}},
	} {
		write(t, dir, "a.yaml", c.text)
		f.read()
		r, _ := f.content()
		if diff := cmp.Diff(c.want, r.Unread, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("of %s (-want +got):\n%s", c.text, diff)
		}
	}
}

func TestAnObjectInTwoFilesIsReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", service("one"))
	write(t, dir, "b.yaml", service("one", "two"))
	r := watch(t, dir)
	r.untilProblem("b.yaml:2: Service default/one is already defined at "+dir+"/a.yaml:2, which counts; delete one of the two", "one", "two")
}

// on is a Service of a port, to tell two of one name apart.
func on(port, name string) string {
	return strings.Replace(service(name), "port: 80", "port: "+port, 1)
}

func TestOfTwoDefinitionsTheOneThatIsServedStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "b.yaml", on("81", "one"))
	r := watch(t, dir)
	r.untilServices("one:81")

	write(t, dir, "a.yaml", on("80", "one")) // sorts before the one that is served
	r.untilProblem("a.yaml:2: Service default/one is already defined at "+dir+"/b.yaml:2", "one:81")
	write(t, dir, "c.yaml", service("two")) // a change elsewhere
	r.untilProblem("a.yaml:2:", "one:81", "two")
	write(t, dir, "b.yaml", on("82", "one")) // a change of the one that is served
	r.untilProblem("a.yaml:2:", "one:82", "two")
	write(t, dir, "b.yaml", "kind: [")
	r.until("two bad files", func(s seen) bool { return len(s.problems) == 2 && s.services[0] == "one:82" })

	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	r.untilServices("one", "two")
}

func TestOfTwoDefinitionsInOneFileTheOneThatIsServedStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", on("80", "one")+on("81", "one"))
	r := watch(t, dir)
	r.untilProblem("a.yaml:10: Service default/one: is already defined at "+dir+"/a.yaml:2", "one")
	write(t, dir, "a.yaml", on("82", "one")+on("80", "one")+on("83", "two"))
	r.untilProblem("a.yaml:10: Service default/one: is already defined at "+dir+"/a.yaml:2", "one", "two:83")
	write(t, dir, "a.yaml", on("82", "one"))
	r.untilServices("one:82")
}
