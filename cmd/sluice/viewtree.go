// SPDX-License-Identifier: Apache-2.0

//go:build !nopage

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/terminator"
)

// How many listeners the page draws, routes of each, and endpoints of each route:
// the busiest. Search and sluice status have all.
const (
	mostListeners = 24
	mostRoutes    = 8
	mostEndpoints = 8
)

// branch is a box in the picture: a listener, a route, an endpoint.
type branch struct {
	Kind, Name, Detail string
	Tone, State        string // where something is wrong
	counts
	Children []*branch
	Hidden   int // that are not in Children

	leads  bool // a listener that is to have routes in the picture
	byName map[string]*branch
}

func (b *branch) child(kind, name, detail string) *branch {
	if b.byName == nil {
		b.byName = map[string]*branch{}
	}
	c := b.byName[name]
	if c == nil {
		c = &branch{Kind: kind, Name: name, Detail: detail}
		b.byName[name] = c
		b.Children = append(b.Children, c)
	}
	return c
}

// most leaves the busiest children, in the order of their names.
func (b *branch) most(n int) {
	if b.Hidden = max(0, len(b.Children)-n); b.Hidden > 0 {
		slices.SortStableFunc(b.Children, func(x, y *branch) int {
			return cmp.Or(-cmp.Compare(x.Tone, y.Tone), cmp.Compare(total(y.ever), total(x.ever)), cmp.Compare(y.Open, x.Open))
		})
		b.Children = b.Children[:n]
	}
	slices.SortFunc(b.Children, func(x, y *branch) int { return cmp.Compare(x.Name, y.Name) })
}

// tree draws the ways from clients to endpoints.
func (v *view) tree() {
	var root branch
	for _, n := range v.nodes {
		if n.Error != "" {
			continue
		}
		o := &n.overview
		for i := range o.Status.Listeners {
			root.listener(&o.Status.Listeners[i])
		}
		for i := range o.Traffic {
			f := &o.Traffic[i]
			root.flow(f, countsOf(f, n.before, o.At))
		}
	}
	for _, l := range root.Children {
		for _, r := range l.Children {
			if len(r.Children) == 0 {
				r.child("endpoint", "no endpoint", "its connections are refused").Tone = warn
			}
			r.most(mostEndpoints)
		}
		if len(l.Children) == 0 && l.leads {
			l.child("route", "no route", "its connections are refused").Tone = warn
		}
		l.most(mostRoutes)
	}
	root.most(mostListeners)
	v.Clients, v.Tree, v.Hidden = &root.counts, root.Children, root.Hidden
	v.Clients.Open = v.Open
}

func (b *branch) listener(l *agent.ListenerStatus) {
	spec := listenerSpec{Port: int32(l.Port), Protocol: string(l.Protocol), Hostname: l.Hostname}
	detail := spec.port()
	if name := spec.hostname(); name != "-" {
		detail += " " + name
	}
	box := b.child("listener", l.Name, detail)
	box.Open += l.Connections // those in their handshake, and UDP sessions, too
	box.leads = l.Problem == "" && l.Protocol != config.UDP
	if l.Problem != "" {
		box.Tone, box.State = bad, "not served: "+l.Problem
	}
}

func (b *branch) flow(f *terminator.Flow, of *counts) {
	b.add(of)
	at := b.byName[f.Listener]
	switch {
	case at == nil && f.Listener == "" && f.Connections > 0:
		at = b.child("listener", "no listener", "no TLS, or a server name that nobody takes")
		b.byName[""] = at
	case at == nil:
		return
	}
	open := at.Open
	at.add(of)
	at.Open = open
	if f.Route == "" {
		return
	}
	kind, name, ok := strings.Cut(f.Route, "/")
	if !ok {
		kind, name = "", f.Route
	}
	at = at.child("route", name, kind)
	at.add(of)
	if f.Endpoint == "" {
		return
	}
	at = at.child("endpoint", f.Endpoint, f.Backend)
	at.add(of)
	if f.Failed {
		at.Tone, at.State = bad, "could not be connected to of late"
	}
}

// problemRow is something that is wrong, with what mends it.
type problemRow struct{ Where, What, Message string }

// problems lists what is wrong, once for all nodes that say it.
func (v *view) problems() {
	var order []problemRow
	nodes := map[problemRow][]string{}
	tell := func(node string, p problemRow) {
		if nodes[p] == nil {
			order = append(order, p)
		}
		nodes[p] = append(nodes[p], node)
	}
	objects := func(node string, of []translate.Status) map[string]bool {
		told := map[string]bool{}
		for i := range of {
			for _, p := range of[i].Wrong() {
				told[p.String()] = true
				tell(node, problemOf(&p))
			}
		}
		return told
	}
	objects("", v.objects.Objects)
	for _, n := range v.nodes {
		if n.Error != "" {
			tell(n.Node, problemRow{Message: n.Error})
			continue
		}
		s := &n.overview.Status
		told := objects(n.Node, s.Resources.Objects)
		for _, text := range s.Resources.Problems {
			if !told[text] {
				tell(n.Node, problemRow{Message: text})
			}
		}
		if len(s.Resources.Objects) == 0 { // theirs tell it
			for _, l := range s.Listeners {
				if l.Problem != "" {
					tell(n.Node, problemRow{"listener " + l.Name, "not served", l.Problem})
				}
			}
		}
	}
	for _, p := range order {
		if v.Cluster != "" {
			about := slices.DeleteFunc([]string{strings.Join(nodes[p], ", "), p.Where}, func(s string) bool { return s == "" })
			p.Where = strings.Join(about, ": ")
		}
		v.Problems = append(v.Problems, p)
	}
}

func problemOf(p *translate.Problem) problemRow {
	row := problemRow{Where: p.Object.String(), Message: p.Message}
	switch {
	case p.Listener != "":
		row.Where += fmt.Sprintf(", listener %q", p.Listener)
	case p.Parent != nil:
		row.Where += ", parent " + parent(p.Parent)
	}
	if c := p.Condition; c != nil {
		row.What = fmt.Sprintf("%s %s (%s)", c.Type, c.Status, c.Reason)
	}
	return row
}

// objectRow is an object, or a listener of one, or a parent of a route.
type objectRow struct{ Object, Part, Detail, State, Tone string }

// tellOf takes up what is said of objects.
func (v *view) tellOf(of *resourceStatus) {
	s := statusView{Resources: *of}
	for _, w := range s.warnings() {
		if !slices.Contains(v.Warnings, w) {
			v.Warnings = append(v.Warnings, w)
		}
	}
	v.Objects = append(v.Objects, objectRows(of)...)
}

// objectRows sums up the conditions of Gateways, ListenerSets and routes.
func objectRows(of *resourceStatus) []objectRow {
	asked := map[string]listenerSpec{}
	for _, l := range of.Listeners {
		asked[ofObject(l.Name)] = l
	}
	var out []objectRow
	row := func(object, part, detail, state string) {
		tone := fine
		if state != "served" && state != "accepted" {
			tone = warn
		}
		out = append(out, objectRow{object, part, detail, state, tone})
	}
	for i := range of.Objects {
		o := &of.Objects[i]
		name := o.Namespace + "/" + o.Name
		listener := func(key, listener, state string) {
			detail := "" // of one that is gone, and whose status is not
			if l, ok := asked[key+"/"+listener]; ok {
				detail = strings.TrimSuffix(l.port()+" "+l.hostname(), " -")
			}
			row("", listener, detail, state)
		}
		switch {
		case o.Gateway != nil:
			var addresses []string
			for _, a := range o.Gateway.Addresses {
				addresses = append(addresses, a.Value)
			}
			row("Gateway "+name, "", cmp.Or(shorten(addresses), "no address"), gatewayState(o.Gateway))
			for _, l := range o.Gateway.Listeners {
				listener(name, string(l.Name), listenerState(l.Conditions))
			}
		case o.ListenerSet != nil:
			row("ListenerSet "+name, "", "", programmed(o.ListenerSet.Conditions))
			for _, l := range o.ListenerSet.Listeners {
				listener("ListenerSet "+name, string(l.Name), listenerState(l.Conditions))
			}
		case o.Route != nil && len(o.Route.Parents) == 0:
			row(o.Kind+" "+name, "", "no parent", "not accepted")
		case o.Route != nil:
			for _, p := range o.Route.Parents {
				row(o.Kind+" "+name, "", "to "+parent(&p.ParentRef), routeState(p.Conditions))
			}
		}
	}
	return out
}
