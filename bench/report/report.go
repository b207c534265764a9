// SPDX-License-Identifier: Apache-2.0

// Package report is what a run of the benchmark found, as one JSON file, and
// what is made of that file alone: a table for the terminal, files for
// benchstat, a page with the targets, and a comparison with an earlier run.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// The peers that mean something here; all others are just names.
const (
	Spliced   = "spliced" // Sluice as it comes
	Relay     = "relay"   // Sluice without the splice
	Reference = "haproxy" // the peer that the others' ratios refer to
	Direct    = "direct"  // no gateway at all: TLS to the backend
)

// Other tells whether a peer is a gateway that is not ours.
func Other(peer string) bool { return peer != Spliced && peer != Relay && peer != Direct }

// Report is everything that a run found.
type Report struct {
	Time     time.Time         `json:"time"`
	Host     Host              `json:"host"`
	Setting  Setting           `json:"setting"`
	Versions map[string]string `json:"versions"`
	Skipped  map[string]string `json:"skipped,omitempty"`
	// Rates are those of open loops, in messages a second, by scenario.
	Rates map[string]float64 `json:"rates,omitempty"`
	// Scenarios and Peers are all that can be measured, in the order of the rows.
	Scenarios []Scenario `json:"scenarios"`
	Peers     []string   `json:"peers"`
	Rows      []Row      `json:"rows"`
	Windows   []Window   `json:"windows"`
	// Load is the load average at the beginning and the end.
	Load [2]string `json:"load_average"`
}

// Host is the machine that was measured.
type Host struct {
	Kernel     string `json:"kernel"`
	CPU        string `json:"cpu"`
	CPUs       int    `json:"cpus"`
	Congestion string `json:"tcp_congestion_control"`
	Go         string `json:"go"`
}

// Setting is what must be equal in all windows of a report.
type Setting struct {
	Share   float64 `json:"share"`   // of the full work
	Workers int     `json:"workers"` // of every gateway, 0 for its default
}

// Scenario is one kind of load.
type Scenario struct {
	Name string `json:"name"`
	// Kind is what scenarios have in common that belong in one picture.
	Kind        string `json:"kind"`
	Unit        string `json:"unit"` // of the figures
	Connections int    `json:"connections"`
}

// Load reads a report.
func Load(path string) (*Report, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &Report{Versions: map[string]string{}, Skipped: map[string]string{}, Rates: map[string]float64{}}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

// Open begins a report, or goes on with the one in a file if there is one. An
// empty path is no file. Windows that failed are not in it: they are to be tried
// again.
func Open(path string, host Host, setting Setting) (*Report, error) {
	began := &Report{
		Time: time.Now(), Host: host, Setting: setting,
		Versions: map[string]string{}, Skipped: map[string]string{}, Rates: map[string]float64{},
	}
	if path == "" {
		return began, nil
	}
	r, err := Load(path)
	if errors.Is(err, os.ErrNotExist) {
		return began, nil
	} else if err != nil {
		return nil, err
	}
	if r.Host != host || r.Setting != setting {
		return nil, fmt.Errorf("%s was measured elsewhere or otherwise (%+v %+v, here %+v %+v): name another file, or remove it",
			path, r.Host, r.Setting, host, setting)
	}
	r.Windows = slices.DeleteFunc(r.Windows, func(w Window) bool { return w.Error != "" })
	return r, nil
}

// Has tells whether a window is measured.
func (r *Report) Has(round int, scenario, peer string) bool {
	return slices.ContainsFunc(r.Windows, func(w Window) bool {
		return w.Round == round && w.Scenario == scenario && w.Peer == peer
	})
}

// Save writes the report to a file, as a whole or not at all.
func (r *Report) Save(path string) error {
	if path == "" {
		return nil
	}
	r.Summarize()
	raw, err := json.MarshalIndent(r, "", "") // thousands of windows: lines for diff, no room for looks
	if err != nil {
		return err
	}
	return write(path, append(raw, '\n'))
}

// write makes a file as a whole or not at all, and its folder.
func write(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
