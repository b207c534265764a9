// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
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
	Versions map[string]string `json:"versions"`
	Skipped  map[string]string `json:"skipped,omitempty"`
	Rows     []Row             `json:"rows"`
	Windows  []Window          `json:"windows"`
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
	fmt.Println("idle-class spinners ran on every CPU; every byte was checked; vs = median of the rounds' ratios (rounds that were lower / rounds)")
	if slices.ContainsFunc(r.Rows, func(row Row) bool { return row.Peer == "spliced" && row.Spliced != nil && *row.Spliced == 0 }) {
		fmt.Println("spliced: in some scenario no byte went past TCP; sluice doctor says what the splice lacks here")
	}
	if o.json == "" {
		return nil
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(raw, '\n'), 0o644)
}
