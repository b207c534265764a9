// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Report is everything that a run found, as -json writes it.
type Report struct {
	Time     time.Time         `json:"time"`
	Host     Host              `json:"host"`
	Setting  Setting           `json:"setting"`
	Versions map[string]string `json:"versions"`
	Skipped  map[string]string `json:"skipped,omitempty"`
	// Rates are those of open loops, in messages a second, by scenario.
	Rates   map[string]float64 `json:"rates,omitempty"`
	Rows    []Row              `json:"rows"`
	Windows []Window           `json:"windows"`
	// Load is the load average at the beginning and the end.
	Load [2]string `json:"load_average"`
}

// Setting is what must be equal in all windows of a report.
type Setting struct {
	Share   float64 `json:"share"`   // of the full work
	Workers int     `json:"workers"` // of every gateway, 0 for its default
}

// openReport begins a report, or goes on with the one in a file.
func openReport(path string, setting Setting) (*Report, error) {
	r := &Report{Time: time.Now(), Host: host(), Setting: setting, Versions: map[string]string{}, Skipped: map[string]string{}, Rates: map[string]float64{}}
	r.Load[0] = loadAverage()
	if path == "" {
		return r, nil
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	} else if err != nil {
		return nil, err
	}
	was := *r
	was.Host, was.Setting = Host{}, Setting{}
	if err := json.Unmarshal(raw, &was); err != nil {
		return nil, fmt.Errorf("go on with %s: %w", path, err)
	}
	if was.Host != r.Host || was.Setting != r.Setting {
		return nil, fmt.Errorf("%s was measured elsewhere or otherwise (%+v %+v, here %+v %+v): name another file, or remove it",
			path, was.Host, was.Setting, r.Host, r.Setting)
	}
	was.Windows = slices.DeleteFunc(was.Windows, func(w Window) bool { return w.Error != "" }) // tried again
	return &was, nil
}

// has tells whether a window is measured.
func (r *Report) has(round int, scenario, peer string) bool {
	return slices.ContainsFunc(r.Windows, func(w Window) bool {
		return w.Round == round && w.Scenario == scenario && w.Peer == peer
	})
}

// summarize makes the rows of all windows, in the order of scenarios and peers.
func (r *Report) summarize() {
	r.Load[1] = loadAverage()
	r.Rows = summarize(scenarios(1), peers(""), r.Windows)
}

// save writes the report to a file, as a whole or not at all.
func (r *Report) save(path string) error {
	if path == "" {
		return nil
	}
	r.summarize()
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(raw, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Host is the machine that was measured.
type Host struct {
	Kernel     string `json:"kernel"`
	CPU        string `json:"cpu"`
	CPUs       int    `json:"cpus"`
	Congestion string `json:"tcp_congestion_control"`
	Go         string `json:"go"`
}

func host() Host {
	var u unix.Utsname
	_ = unix.Uname(&u)
	h := Host{Kernel: unix.ByteSliceToString(u.Release[:]), CPUs: runtime.NumCPU(), Go: runtime.Version()}
	if raw, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); err == nil {
		h.Congestion = strings.TrimSpace(string(raw))
	}
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, after, ok := strings.Cut(string(raw), "model name"); ok {
			line, _, _ := strings.Cut(after, "\n")
			h.CPU = strings.TrimSpace(strings.TrimLeft(line, "\t :"))
		}
	}
	return h
}

func printReport(r *Report, o options) error {
	if err := writeTable(os.Stdout, r.Rows); err != nil {
		return err
	}
	w := worst(r.Windows)
	fmt.Printf("\nload average %s before, %s after; at worst others took %.0f %% of the CPUs and the hypervisor %.0f %% (%s, %s, round %d)\n",
		r.Load[0], r.Load[1], 100*w.Others, 100*w.Steal, w.Scenario, w.Peer, w.Round+1)
	fmt.Println("idle-class spinners ran on every CPU; every byte was checked; vs = median of the rounds' ratios [95 % confidence] (rounds that were lower / rounds)")
	if slices.ContainsFunc(r.Rows, func(row Row) bool {
		return row.Peer == "spliced" && row.Scenario == "upload" && row.Spliced != nil && *row.Spliced == 0
	}) {
		fmt.Println("spliced: no byte of an upload went past TCP; sluice doctor says what the splice lacks here")
	}
	return r.save(o.json)
}
