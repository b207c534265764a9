// SPDX-License-Identifier: Apache-2.0

// Package folder is the source of resources that needs no cluster: a folder of
// the YAML and JSON that kubectl apply takes.
//
// It reads like "kubectl apply -f DIR": *.yaml, *.yml and *.json of the folder
// itself, in the order of their names, no sub-folders, nothing that starts with
// a dot. Symbolic links are followed, so a mounted ConfigMap or Secret works.
// Unlike kubectl it goes on watching: a file that goes away takes its objects
// with it. While something in a file is bad, the file loses no object: what is
// good in it counts, the rest stays as it was, and the file is reported by name.
// Of an object that is defined twice the one that was there first stays, where
// both appear at once the first by file name; the other one is reported.
package folder

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/controller/manifest"
	"github.com/sluice-gateway/sluice/controller/translate"
)

const (
	// quiet is how long nothing must happen before the folder is read: an
	// editor or a deploy script touches several files, and writes each in
	// pieces.
	quiet = 100 * time.Millisecond
	// bound is the longest that changes wait when the folder never gets quiet.
	bound = time.Second
	// safetyNet is how often the folder is read without any event: network file
	// systems and exhausted inotify limits give none.
	safetyNet = 30 * time.Second
	// maxFile is the largest file that is read, in bytes. An API server stores
	// objects of 1.5 MiB at most; a file may hold several.
	maxFile = 16 << 20
)

// Folder reads and watches a folder. It is used by one goroutine at a time.
type Folder struct {
	// Dir is the folder.
	Dir string
	// Reread optionally makes Run read the folder now.
	Reread <-chan os.Signal

	files   map[string]*file
	owners  map[translate.Key]string // the file that an object was taken from
	problem error                    // of the folder itself
}

// Problem is why a file, or the folder itself, does not count as it stands.
type Problem struct {
	// File is the path as the user would write it.
	File string `json:"file"`
	// Line is where its object begins, 0 where the file as a whole is meant.
	Line int `json:"line,omitempty"`
	// Message says which object, what is wrong and what to do about it.
	Message string `json:"message"`
}

// String returns "file:line: message", which editors and terminals make a link of.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message)
}

// file is what is known of one file.
type file struct {
	sum       [sha256.Size]byte // of what was decoded last, good or bad
	decoded   bool
	good      translate.Resources // what the file counts for
	readErr   error
	decodeErr error
}

func (f *file) err() error { return cmp.Or(f.readErr, f.decodeErr) }

// Check tells whether the folder can be read at all.
func (f *Folder) Check() error {
	if _, err := os.ReadDir(f.Dir); errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("read folder %s: %w", f.Dir, cause(err))
	} else if err != nil {
		return fmt.Errorf("read folder %s: %w; give the folder that holds the YAML files", f.Dir, cause(err))
	}
	return nil
}

// Run reads the folder, hands over what it holds, and does so again after
// every change until ctx ends; then it returns nil. apply is called by Run's
// goroutine, first before anything is waited for.
//
// It fails only at the start, when the folder cannot be read (see Check).
func (f *Folder) Run(ctx context.Context, apply func(translate.Resources, []Problem)) error {
	if err := f.Check(); err != nil {
		return err
	}
	w, err := newWatcher()
	if err != nil {
		return err
	}
	defer w.Close()

	read := func() {
		// Watch before reading: a change in between is seen twice, not never.
		watchErr := w.follow(f.Dir, slices.Collect(maps.Keys(f.files)))
		changed := f.read()
		if watchErr == nil {
			watchErr = w.follow(f.Dir, slices.Collect(maps.Keys(f.files)))
		}
		if f.problem == nil && watchErr != nil {
			f.problem = watchErr
		}
		if changed {
			apply(f.content())
		}
	}
	read()

	// The two timers run only while a change waits: quiet starts anew with
	// every event, bound does not.
	var quietC, boundC <-chan time.Time
	net := time.NewTicker(safetyNet)
	defer net.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.Events:
			if w.matters(e) {
				quietC = time.After(quiet)
				if boundC == nil {
					boundC = time.After(bound)
				}
			}
			continue
		case <-w.Errors: // an overflow of the event queue: events were lost
		case <-net.C:
		case <-f.Reread:
		case <-quietC:
		case <-boundC:
		}
		quietC, boundC = nil, nil
		read()
	}
}

// read brings files up to date and tells whether anything is different.
func (f *Folder) read() (changed bool) {
	before := f.problem
	f.problem = nil
	first := f.files == nil
	if first {
		f.files = map[string]*file{}
	}
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		// The folder may come back: nothing that was served is given up.
		f.problem = fmt.Errorf("read folder: %w; what it held is still served", cause(err))
		return first || before == nil
	}
	seen := map[string]bool{}
	for _, e := range entries {
		if !counts(e) {
			continue
		}
		seen[e.Name()] = true
		if f.files[e.Name()] == nil {
			f.files[e.Name()] = &file{}
		}
		if f.files[e.Name()].read(filepath.Join(f.Dir, e.Name())) {
			changed = true
		}
	}
	for name := range f.files {
		if !seen[name] {
			delete(f.files, name)
			changed = true
		}
	}
	return changed || first || before != nil
}

// counts tells whether a directory entry is one that kubectl would apply.
// Names with a leading dot are the work of editors and of the kubelet.
func counts(e fs.DirEntry) bool {
	switch filepath.Ext(e.Name()) {
	case ".yaml", ".yml", ".json":
		return !e.IsDir() && !strings.HasPrefix(e.Name(), ".")
	}
	return false
}

// read brings one file up to date and tells whether anything is different.
func (f *file) read(path string) (changed bool) {
	before := fmt.Sprint(f.err())
	data, err := readFile(path)
	f.readErr = err
	if err != nil {
		return fmt.Sprint(f.err()) != before
	}
	sum := sha256.Sum256(data)
	if f.decoded && sum == f.sum {
		return fmt.Sprint(f.err()) != before
	}
	f.sum, f.decoded = sum, true
	if len(strings.TrimSpace(string(data))) == 0 {
		// More often the moment between truncating and writing than a wish.
		f.decodeErr = errors.New("the file is empty; delete it to remove its objects")
		return true
	}
	var now translate.Resources
	if now, f.decodeErr = manifest.Decode(path, data); f.decodeErr != nil {
		now = f.mend(now)
	}
	f.good = now
	return true
}

// mend returns what a bad file counts for. What is good in it does. Whether the
// rest is broken or gone cannot be told, so it stays as it was, and so does
// what is defined twice by now. The errors that Merge reports are that old
// objects are left out.
func (f *file) mend(now translate.Resources) translate.Resources {
	twice := manifest.Duplicates(f.decodeErr)
	var out translate.Resources
	_ = out.MergeFunc(now, func(k translate.Key) bool { return !twice[k] || f.good.Sources[k] == "" })
	_ = out.Merge(f.good)
	out.Unread = now.Unread
	return out
}

// readFile reads a regular file of at most maxFile bytes. It does not block on
// named pipes and the like.
func readFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, cause(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, cause(err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("not a regular file (%s)", info.Mode().Type())
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%d bytes are more than the %d MiB that a file may have; split it", info.Size(), maxFile>>20)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, cause(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than the %d MiB that a file may have; split it", maxFile>>20)
	}
	return data, nil
}

// cause strips what the message around it already says: operation and path.
func cause(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; let the user that runs the gateway read it", fs.ErrPermission)
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// content puts the files together, and tells what is wrong with them.
func (f *Folder) content() (translate.Resources, []Problem) {
	var all translate.Resources
	var problems []Problem
	if f.problem != nil {
		problems = append(problems, Problem{File: f.Dir, Message: f.problem.Error()})
	}
	names := slices.Sorted(maps.Keys(f.files))
	owners := map[translate.Key]string{}
	for _, name := range names {
		_ = all.MergeFunc(f.files[name].good, func(k translate.Key) bool { // no object has two owners
			if f.owners[k] == name {
				owners[k] = name
			}
			return owners[k] == name
		})
	}
	for _, name := range names {
		path := filepath.Join(f.Dir, name)
		report := func(err error) {
			for line := range strings.Lines(err.Error()) {
				// Some name the file themselves, with the line of an object.
				p := Problem{File: path, Message: strings.TrimPrefix(strings.TrimSpace(line), path+":")}
				if at, message, ok := strings.Cut(p.Message, ": "); ok {
					if n, err := strconv.Atoi(at); err == nil {
						p.Line, p.Message = n, message
					}
				}
				problems = append(problems, p)
			}
		}
		if err := f.files[name].err(); err != nil {
			report(err)
		}
		if f.files[name].readErr != nil {
			_ = all.Merge(translate.Resources{Unread: map[translate.Key]string{{}: path}}) // has no object
		}
		err := all.MergeFunc(f.files[name].good, func(k translate.Key) bool {
			if owners[k] == "" {
				owners[k] = name
				return true
			}
			return owners[k] != name // a second definition, to be reported
		})
		if err != nil {
			report(err)
		}
	}
	f.owners = owners
	return all, problems
}
