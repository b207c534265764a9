// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/terminator"
)

// nodeOverview is what a node says of itself, or why it does not.
type nodeOverview struct {
	Node, Error string
	overview    struct {
		agent.Overview
		Status statusView `json:"status"`
	}
	before *counted
}

// Tones say at a glance what words say too.
const (
	fine = "fine"
	warn = "warn"
	bad  = "bad"
)

// view is what the page shows, of one node or of all nodes of a cluster.
type view struct {
	Search, Cluster string

	Nodes    []nodeRow
	Figures  []figure
	Clients  *counts
	Tree     []*branch
	Hidden   int // listeners that are not in Tree
	Problems []problemRow
	Warnings []string
	Objects  []objectRow

	Certificates  []certificateRow
	Connections   []connectionRow
	Open, Matches int

	now     time.Time
	nodes   []*nodeOverview
	objects resourceStatus // where nodes do not know them
}

// nodeRow is a node in one line.
type nodeRow struct {
	Node, Version, State, Tone, Age, Snapshot, Splice, Error string
	Listeners, Open, Problems                                int
}

// figure is a number that everybody wants first.
type figure struct{ Name, Value, Unit, Note, Tone string }

// certificateRow is a certificate with what is left of its life.
type certificateRow struct {
	Name, Key, Names, Issuer, Expires, Days, State, Tone string
	left                                                 time.Duration
}

// connectionRow is an open connection.
type connectionRow struct {
	Node, Up, Down, Age string
	terminator.Connection
}

func (v *view) add(n *nodeOverview) { v.nodes = append(v.nodes, n) }

// finish makes what the page shows of what the nodes said.
func (v *view) finish(h *history) {
	certificates := map[string]certificateRow{}
	v.tellOf(&v.objects)
	for _, n := range v.nodes {
		if n.Error != "" {
			v.Nodes = append(v.Nodes, nodeRow{Node: n.Node, State: "does not answer", Tone: bad, Error: n.Error})
			continue
		}
		o := &n.overview
		o.Overview.Status = o.Status.Status
		n.before = h.since(n.Node, &o.Overview)
		v.Nodes = append(v.Nodes, v.node(n))
		v.Open, v.Matches = v.Open+o.Open, v.Matches+o.Matches
		for _, c := range o.Connections {
			v.Connections = append(v.Connections, connectionRow{n.Node, size(c.Up), size(c.Down), age(max(0, o.At.Sub(c.Start))), c})
		}
		for i := range o.Status.Certificates {
			c := &o.Status.Certificates[i]
			certificates[certificateName(c)] = v.certificate(c)
		}
		v.tellOf(&o.Status.Resources)
	}
	slices.SortStableFunc(v.Connections, func(a, b connectionRow) int { return b.Start.Compare(a.Start) })
	v.Connections = v.Connections[:min(len(v.Connections), 200)]
	v.Certificates = slices.SortedFunc(maps.Values(certificates), func(a, b certificateRow) int {
		return cmp.Or(cmp.Compare(a.left, b.left), cmp.Compare(a.Name, b.Name))
	})
	v.problems()
	v.tree()
	v.figures()
}

func (v *view) node(n *nodeOverview) nodeRow {
	s := &n.overview.Status
	row := nodeRow{Node: n.Node, Version: s.Version, State: s.state(), Tone: fine, Age: age(max(0, v.now.Sub(s.Started))), Snapshot: s.Snapshot[:min(12, len(s.Snapshot))],
		Splice: "on", Listeners: len(s.Listeners), Open: n.overview.Open, Problems: len(s.Resources.Problems)}
	if row.State != "serving" {
		row.Tone = warn
	}
	if !s.Splice.On {
		row.Splice = fmt.Sprintf("off (%s): %s", s.Splice.Reason, s.Splice.Message)
	}
	return row
}

// certificate says how long a certificate will do. One that is renewed in time,
// at two thirds of its life, is fine always.
func (v *view) certificate(c *agent.CertificateStatus) certificateRow {
	row := certificateRow{Name: certificateName(c), Key: c.KeyType, Names: cmp.Or(strings.ReplaceAll(shorten(c.DNSNames), ",", ", "), c.Subject), Issuer: c.Issuer,
		Expires: expiry(c.NotAfter, v.now), Days: "-", State: "unknown", Tone: warn, left: c.NotAfter.Sub(v.now)}
	if c.NotAfter.IsZero() {
		return row
	}
	const day = 24 * time.Hour
	life := c.NotAfter.Sub(c.NotBefore)
	row.Expires, row.Days = c.NotAfter.UTC().Format("2006-01-02 15:04"), fmt.Sprint(int(row.left/day))
	switch {
	case row.left < 0:
		row.State, row.Tone = "expired: replace it", bad
	case row.left < min(life/12, 7*day):
		row.State, row.Tone = "ends in "+age(row.left)+": renew it now", bad
	case row.left < min(life/4, 30*day):
		row.State, row.Tone = "renewal is due", warn
	default:
		row.State, row.Tone = "fine", fine
	}
	return row
}

func (v *view) figures() {
	perSecond, up, down := figure{Value: "-"}, figure{Value: "-"}, figure{Value: "-"}
	if v.Clients.Known {
		perSecond = figure{Value: fmt.Sprintf("%.1f", v.Clients.PerSecond), Unit: "/s"}
		up.Value, up.Unit = amount(int64(v.Clients.Up))
		down.Value, down.Unit = amount(int64(v.Clients.Down))
		up.Unit, down.Unit = up.Unit+"B/s", down.Unit+"B/s"
	}
	perSecond.Name, up.Name, down.Name = "new connections", "from clients", "to clients"
	v.Figures = []figure{{Name: "open connections", Value: fmt.Sprint(v.Open)}, perSecond, up, down, v.spliced()}
	problems := figure{Name: "problems", Value: fmt.Sprint(len(v.Problems)), Tone: fine}
	if len(v.Problems) > 0 {
		problems.Tone = bad
	}
	v.Figures = append(v.Figures, problems)
}

// spliced tells which part of all bytes went past TCP, as the kernel counts them.
func (v *view) spliced() figure {
	f := figure{Name: "bytes past TCP", Value: "off"}
	var moved, all terminator.Bytes
	var reasons []string
	for _, n := range v.nodes {
		s := &n.overview.Status.Splice
		switch {
		case n.Error != "":
		case s.On:
			f.Value = ""
			moved.Up, moved.Down = moved.Up+s.Bytes.Up, moved.Down+s.Bytes.Down
			for _, flow := range n.overview.Traffic {
				for _, b := range flow.Bytes {
					all.Up, all.Down = all.Up+b.Up, all.Down+b.Down
				}
			}
		case !slices.Contains(reasons, s.Reason):
			reasons = append(reasons, s.Reason)
		}
	}
	if f.Value != "" {
		f.Note = strings.Join(reasons, ", ")
		return f
	}
	f.Value = percent(moved.Up+moved.Down, all.Up+all.Down)
	f.Note = fmt.Sprintf("up %s, down %s", percent(moved.Up, all.Up), percent(moved.Down, all.Down))
	return f
}

func percent(part, all int64) string {
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", min(100, (part*100+all/2)/all))
}
