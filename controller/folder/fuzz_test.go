// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// FuzzFolder writes arbitrary bytes over a good file: whatever they are, what
// the other file holds is there, and a file that is reported loses nothing.
func FuzzFolder(f *testing.F) {
	for _, seed := range []string{"", "\x00", "a: b", service("one"), service("one", "one"), "---\n---\n", "[]", "kind: List\n",
		"&a [*a]", "apiVersion: v1\nkind: List\nitems:\n- 1\n", "%YAML 9.9\n---\n", "\ufeffkind: x", "{\"kind\":\"Service\"", "? ? ?"} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "a.yaml")
	if err := os.WriteFile(filepath.Join(dir, "b.yaml"), []byte(service("other")), 0o600); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		folder := &Folder{Dir: dir}
		write(t, dir, "a.yaml", service("one"))
		folder.read()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		folder.read()
		resources, problems := folder.content()
		got := look(dir, resources, problems)
		if !slices.Contains(got.services, "other") {
			t.Errorf("the other file is lost: %v", got.services)
		}
		// Its good documents count, so the object may be another one than before.
		one := func(s string) bool { return s == "one" || strings.HasPrefix(s, "one:") }
		if folder.files["a.yaml"].err() != nil && !slices.ContainsFunc(got.services, one) {
			t.Errorf("a bad file lost its object: %v", got.services)
		}
	})
}
