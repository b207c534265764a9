// SPDX-License-Identifier: Apache-2.0

package report

import (
	"errors"
	"fmt"
	"path/filepath"
)

// date is the day of the run, the beginning of the names of its files.
func (r *Report) date() string { return r.Time.UTC().Format("2006-01-02") }

// Results is the file in which WriteResults keeps the report.
func (r *Report) Results(dir string) string { return filepath.Join(dir, r.date()+"-figures.json") }

// WriteResults writes what is to be kept of a run into a folder: the report, a
// page for people, and a file for benchstat of every peer that was measured.
func (r *Report) WriteResults(dir string) error {
	errs := []error{r.Save(r.Results(dir)), write(filepath.Join(dir, "README.md"), r.page())}
	for _, p := range r.measured() {
		errs = append(errs, write(filepath.Join(dir, fmt.Sprintf("%s-%s.txt", r.date(), p)), r.benchmarks(p)))
	}
	return errors.Join(errs...)
}

// measured are the peers with figures.
func (r *Report) measured() (peers []string) {
	for _, p := range r.Peers {
		for _, w := range r.Windows {
			if w.Peer == p && w.Measured() {
				peers = append(peers, p)
				break
			}
		}
	}
	return peers
}
