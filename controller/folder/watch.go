// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// watcher tells when something happened that may change what is read through
// a set of paths. It watches directories, never files: an editor that saves by
// rename and a kubelet that swaps ..data both replace the file that a watch
// would be tied to.
type watcher struct {
	*fsnotify.Watcher
	// dirs maps each watched directory to the names in it that matter; nil
	// means all of them.
	dirs map[string]map[string]bool
}

func newWatcher() (*watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch folder: %w (is fs.inotify.max_user_instances too low?)", err)
	}
	return &watcher{Watcher: w, dirs: map[string]map[string]bool{}}, nil
}

// follow makes the watcher watch dir and everything that decides what the
// given files in it are: each symbolic link on the way, and the last target.
func (w *watcher) follow(dir string, files []string) error {
	want := map[string]map[string]bool{}
	add := func(path string) string {
		hops, target := resolve(path)
		for _, h := range hops {
			names, ok := want[filepath.Dir(h)]
			if ok && names == nil {
				continue
			}
			if !ok {
				names = map[string]bool{}
				want[filepath.Dir(h)] = names
			}
			names[filepath.Base(h)] = true
		}
		return target
	}
	real := add(dir)
	want[real] = nil
	for _, f := range files {
		add(filepath.Join(real, f))
	}

	var problems []error
	for d := range w.dirs {
		if _, ok := want[d]; !ok {
			_ = w.Remove(d) // gone by itself if the directory is
			delete(w.dirs, d)
		}
	}
	for d, names := range want {
		// Adding twice is free, and needed when the directory was replaced.
		if err := w.Add(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("watch %s: %w (is fs.inotify.max_user_watches too low?)", d, err))
			continue
		}
		w.dirs[d] = names
	}
	return errors.Join(problems...)
}

// matters tells whether an event may change what is read.
func (w *watcher) matters(e fsnotify.Event) bool {
	if e.Op == fsnotify.Chmod {
		// A file that was unreadable may be readable now.
		return true
	}
	names, ok := w.dirs[filepath.Dir(e.Name)]
	return !ok || names == nil || names[filepath.Base(e.Name)]
}

// resolve follows path, and returns every path on the way whose change would
// lead elsewhere (each symbolic link, the directory's own name, the last
// target) and the target itself. What does not exist ends the way.
func resolve(path string) (hops []string, target string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, path
	}
	for range 40 { // as the kernel does (ELOOP)
		link, rest := firstLink(path)
		if link == "" {
			return append(hops, path), path
		}
		hops = append(hops, link)
		to, err := os.Readlink(link)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(link), to)
		}
		path = filepath.Join(to, rest)
	}
	return hops, path
}

// firstLink splits an absolute path after its first symbolic link.
func firstLink(path string) (link, rest string) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != filepath.Separator {
			continue
		}
		if info, err := os.Lstat(path[:i]); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return path[:i], strings.TrimPrefix(path[i:], string(filepath.Separator))
		}
	}
	return "", ""
}
