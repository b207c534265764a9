// SPDX-License-Identifier: Apache-2.0

// Command picture draws what a run of the benchmark found: for each kind of
// scenarios the figure of every gateway over that of the best one that is not
// Sluice, for light and dark pages. It reads the JSON of the run and nothing
// else. It is a module of its own so that its libraries are none of Sluice's;
// benchstat is here for the same reason.
//
//	go run . [-png] FIGURES.json DIR
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is what a picture needs of the benchmark's JSON.
type report struct {
	Time time.Time `json:"time"`
	Host struct {
		Kernel string `json:"kernel"`
		CPU    string `json:"cpu"`
		CPUs   int    `json:"cpus"`
	} `json:"host"`
	Scenarios []scenario `json:"scenarios"`
	Peers     []string   `json:"peers"`
	Rows      []row      `json:"rows"`
}

type scenario struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
	Unit string `json:"unit"`
}

type row struct {
	Scenario string `json:"scenario"`
	Peer     string `json:"peer"`
	Rounds   int    `json:"rounds"`
	// Best is the ratio to the best other gateway; nil for that one itself.
	Best *struct {
		To     string  `json:"to"`
		Median float64 `json:"median"`
		Low    float64 `json:"low"` // 0 when the rounds are too few for an interval
		High   float64 `json:"high"`
	} `json:"best"`
}

func main() {
	png := flag.Bool("png", false, "make PNG files as well")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: picture [-png] FIGURES.json DIR")
		os.Exit(2)
	}
	files := map[string]theme{".svg": light, "-dark.svg": dark}
	if *png {
		files[".png"] = light
	}
	if err := pictures(flag.Arg(0), flag.Arg(1), files); err != nil {
		fmt.Fprintln(os.Stderr, "picture:", err)
		os.Exit(1)
	}
}

// pictures makes those of a run in a folder: files are the ends of their names.
func pictures(figures, dir string, files map[string]theme) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	raw, err := os.ReadFile(figures)
	if err != nil {
		return err
	}
	var r report
	if err := json.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("read %s: %w", figures, err)
	}
	drawn := map[string]bool{}
	for _, s := range r.Scenarios {
		if drawn[s.Kind] {
			continue
		}
		drawn[s.Kind] = true
		what := "gateway CPU"
		if strings.HasPrefix(s.Unit, "kB") {
			what = "memory (RSS)"
		}
		title := strings.ToUpper(s.Kind[:1]) + s.Kind[1:] + ": " + what
		if err := r.draw(title, s.Kind, dir, files, func(other scenario) bool { return other.Kind == s.Kind }); err != nil {
			return err
		}
	}
	return r.draw("Gateway CPU for the same work, of idle connections memory (RSS)", "overview", dir, files,
		func(s scenario) bool { return slices.Contains(overview, s.Name) })
}

// overview is the scenarios of the picture that goes first.
var overview = []string{"upload", "download", "100 B x 16", "handshake ECDSA", "handshake resumed", "idle"}

// draw makes the pictures of some scenarios, none when they have no bars.
func (r report) draw(title, name, dir string, files map[string]theme, of func(scenario) bool) error {
	groups := r.groups(of)
	if len(groups) == 0 {
		return nil
	}
	date := r.Time.UTC().Format(time.DateOnly)
	title = fmt.Sprintf("%s, × that of the best other gateway\n%s, %d CPUs, Linux %s, %s; medians of paired rounds, 95 %% intervals",
		title, r.Host.CPU, r.Host.CPUs, r.Host.Kernel, date)
	path := filepath.Join(dir, date+"-"+strings.ReplaceAll(name, " ", "-"))
	for suffix, theme := range files {
		if err := theme.save(groups, title, path+suffix); err != nil {
			return fmt.Errorf("draw %s: %w", name, err)
		}
	}
	return nil
}

// group is the bars of a scenario, in the order of the peers.
type group struct {
	name string
	bars []bar
}

// bar is a gateway's ratio to the best other one.
type bar struct {
	peer             string
	ratio, low, high float64 // low and high are 0 without an interval
}

// groups are those scenarios of some that have something to compare with.
func (r report) groups(of func(scenario) bool) (groups []group) {
	for _, s := range r.Scenarios {
		if !of(s) {
			continue
		}
		g := group{name: s.Name}
		best := ""
		for _, row := range r.rows(s.Name) {
			if row.Best != nil {
				best = row.Best.To
			}
		}
		for _, peer := range r.Peers {
			for _, row := range r.rows(s.Name) {
				switch {
				case row.Peer != peer || row.Rounds == 0:
				case row.Best != nil:
					g.bars = append(g.bars, bar{peer, row.Best.Median, row.Best.Low, row.Best.High})
				case peer == best:
					g.bars = append(g.bars, bar{peer: peer, ratio: 1})
				}
			}
		}
		if len(g.bars) > 0 {
			groups = append(groups, g)
		}
	}
	return groups
}

func (r report) rows(scenario string) (rows []row) {
	for _, row := range r.Rows {
		if row.Scenario == scenario {
			rows = append(rows, row)
		}
	}
	return rows
}
