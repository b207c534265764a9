// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sluice-gateway/sluice/controller/manifest"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// Files are what [Read] has read.
type Files struct {
	Resources translate.Resources
	// Text are the files, by the names that Resources.Sources has.
	Text map[string][]byte
}

// Read reads files and folders once, each folder as kubectl apply -f does, and
// for "-" what in holds.
//
// It returns what is good. The error joins one for each thing that is not:
// mostly a [*manifest.Error].
func Read(paths []string, in io.Reader) (*Files, error) {
	out := &Files{Text: map[string][]byte{}}
	var problems []error
	add := func(name string, data []byte, err error) {
		if _, again := out.Text[name]; again {
			return
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("read %s: %w", name, err))
			return
		}
		out.Text[name] = data
		r, err := manifest.Decode(name, data)
		problems = append(problems, err, out.Resources.Merge(r))
	}
	for _, p := range paths {
		if p == "-" {
			data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
			if err == nil && len(data) > maxFile {
				err = fmt.Errorf("more than the %d MiB that a file may have; split it", maxFile>>20)
			}
			add("-", data, err)
			continue
		}
		entries, err := os.ReadDir(p)
		if err != nil { // a file, or nothing
			data, err := readFile(p)
			add(p, data, err)
			continue
		}
		for _, e := range entries {
			if counts(e) {
				path := filepath.Join(p, e.Name())
				data, err := readFile(path)
				add(path, data, err)
			}
		}
	}
	return out, errors.Join(problems...)
}
