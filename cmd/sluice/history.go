// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"html/template"
	"sync"
	"time"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/terminator"
)

// history keeps what nodes have counted, for rates.
type history struct {
	window time.Duration // over which rates are, or longer

	mu    sync.Mutex
	nodes map[string][]*counted
}

// counted is what a node has counted until a moment.
type counted struct {
	at, started time.Time
	flows       map[[4]string]terminator.Flow // by listener, route, backend, endpoint
	splice      terminator.Bytes
}

// since takes what a node has counted now and returns the same of window ago;
// where nobody looked then, of the first look after it. It returns nil when there
// is none, or it was another process.
func (h *history) since(node string, o *agent.Overview) *counted {
	now := &counted{o.At, o.Status.Started, map[[4]string]terminator.Flow{}, o.Status.Splice.Bytes}
	for _, f := range o.Traffic {
		now.flows[wayOf(&f)] = f
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	all := h.nodes[node]
	if len(all) > 0 && !all[0].started.Equal(now.started) {
		all = nil
	}
	for len(all) > 1 && !all[1].at.After(now.at.Add(-h.window)) {
		all = all[1:]
	}
	if h.nodes == nil {
		h.nodes = map[string][]*counted{}
	}
	h.nodes[node] = append(all, now)
	// A fraction of the time between two looks makes no rate.
	if len(all) == 0 || now.at.Sub(all[0].at) < h.window/10 {
		return nil
	}
	return all[0]
}

func wayOf(f *terminator.Flow) [4]string {
	return [4]string{f.Listener, f.Route, f.Backend, f.Endpoint}
}

// counts are what went one way, or several.
type counts struct {
	Open  int
	Known bool // PerSecond, Up and Down
	// New connections and bytes a second.
	PerSecond, Up, Down float64
	late, ever          map[string]int64 // bytes by path: of late, and since the start
}

func (f *counts) add(o *counts) {
	f.Open += o.Open
	f.Known = f.Known || o.Known
	f.PerSecond, f.Up, f.Down = f.PerSecond+o.PerSecond, f.Up+o.Up, f.Down+o.Down
	if f.ever == nil {
		f.late, f.ever = map[string]int64{}, map[string]int64{}
	}
	for path, n := range o.ever {
		f.ever[path] += n
		f.late[path] += o.late[path]
	}
}

// countsOf counts what went one way since before, which may be nil.
func countsOf(f *terminator.Flow, before *counted, now time.Time) *counts {
	out := &counts{Open: f.Open, Known: before != nil, late: map[string]int64{}, ever: map[string]int64{}}
	var old terminator.Flow
	seconds := 1.
	if before != nil {
		old, seconds = before.flows[wayOf(f)], now.Sub(before.at).Seconds()
		out.PerSecond = float64(grown(old.Connections, f.Connections)) / seconds
	}
	for path, b := range f.Bytes {
		out.ever[path] = b.Up + b.Down
		if before != nil {
			up, down := grown(old.Bytes[path].Up, b.Up), grown(old.Bytes[path].Down, b.Down)
			out.late[path] = up + down
			out.Up, out.Down = out.Up+float64(up)/seconds, out.Down+float64(down)/seconds
		}
	}
	return out
}

// grown is by how much a counter grew: one of what is no longer served begins anew.
func grown[N int64 | uint64](from, to N) N { return max(from, to) - from }

// Share is the part of bytes that had a path, in percent: of those of late, or
// of all when there were none.
type share struct {
	Path             string
	At, Width, Share int
}

func (f *counts) Shares() []share {
	of := f.late
	sum := total(of)
	if sum == 0 {
		of = f.ever
		sum = total(of)
	}
	if sum == 0 {
		return nil
	}
	var out []share
	var before int64
	for _, path := range []string{"spliced", "kernel", "relay"} {
		if n := of[path]; n > 0 {
			at := int(before * 100 / sum)
			before += n
			out = append(out, share{path, at, int(before*100/sum) - at, int((n*100 + sum/2) / sum)})
		}
	}
	return out
}

func total(of map[string]int64) (n int64) {
	for _, m := range of {
		n += m
	}
	return n
}

// UpText and DownText are Up and Down for people.
func (f *counts) UpText() template.HTML   { return rate(f.Up) }
func (f *counts) DownText() template.HTML { return rate(f.Down) }

func rate(bytes float64) template.HTML {
	digits, prefix := amount(int64(bytes))
	return template.HTML("<b>" + digits + "</b> " + prefix + "B/s") // digits and letters
}
