// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// route is a route of any kind on its way to a status.
type route struct {
	kind   string
	object metav1.Object
	common *gwv1.CommonRouteSpec
	had    *gwv1.RouteStatus

	named     bool // has host names
	hostnames []string
	l4        []gwv1.BackendRef // of TCPRoute, TLSRoute and UDPRoute
	http      *gwv1.HTTPRoute

	parents []*parent

	// What its rules are, once resolved.
	unsupported verdict // of the whole route
	partially   verdict
	refs        []verdict
	targets     []name   // Services referred to
	resolved    []string // backends of them
	warnings    []string
	backends    []config.BackendRef
	rules       []rule
}

// parent is one parentRef of a route with what came of it.
type parent struct {
	ref      gwv1.ParentReference
	rejected verdict
	of       []*listener // that the parent has
	attached []attachment
	skipped  []refusal
	notes    []string // what keeps it from carrying traffic though attached
	// superseded is where an older route comes first.
	superseded []superseded
}

// superseded is a host name of a listener that another route has.
type superseded struct {
	listener *listener
	hostname string
	by       *route
}

// refusal is why a listener does not take a route, and what would help.
type refusal struct {
	listener  *listener
	why, cure string
	// byHostname is a refusal that is how routes find their listeners, and
	// worth a word only where no listener is left.
	byHostname bool
}

// attachment is a listener with the host names that the route has on it.
type attachment struct {
	listener  *listener
	hostnames []string
}

// String returns the name of the route in the snapshot.
func (r *route) String() string { return r.kind + "/" + nameOf(r.object).String() }

func (r *route) key() Key { return keyOf(r.kind, r.object) }

// readRoutes gathers the routes of all kinds, oldest first.
func (t *translator) readRoutes() []*route {
	var out []*route
	for _, o := range t.in.TCPRoutes {
		r := &route{kind: "TCPRoute", object: o, common: &o.Spec.CommonRouteSpec, had: &o.Status.RouteStatus}
		for _, rule := range o.Spec.Rules {
			r.l4 = append(r.l4, rule.BackendRefs...)
		}
		out = append(out, r)
	}
	for _, o := range t.in.TLSRoutes {
		r := &route{kind: "TLSRoute", object: o, common: &o.Spec.CommonRouteSpec, had: &o.Status.RouteStatus,
			named: true, hostnames: lower(o.Spec.Hostnames)}
		for _, rule := range o.Spec.Rules {
			r.l4 = append(r.l4, rule.BackendRefs...)
		}
		out = append(out, r)
	}
	for _, o := range t.in.HTTPRoutes {
		out = append(out, &route{kind: "HTTPRoute", object: o, common: &o.Spec.CommonRouteSpec, had: &o.Status.RouteStatus,
			named: true, hostnames: lower(o.Spec.Hostnames), http: o})
	}
	for _, o := range t.in.GRPCRoutes {
		out = append(out, &route{kind: "GRPCRoute", object: o, common: &o.Spec.CommonRouteSpec, had: &o.Status.RouteStatus,
			named: true, hostnames: lower(o.Spec.Hostnames)})
	}
	for _, o := range t.in.UDPRoutes {
		r := &route{kind: "UDPRoute", object: o, common: &o.Spec.CommonRouteSpec, had: &o.Status.RouteStatus}
		for _, rule := range o.Spec.Rules {
			r.l4 = append(r.l4, rule.BackendRefs...)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *route) int {
		return cmp.Or(compareAge(a.object, b.object), cmp.Compare(a.kind, b.kind))
	})
	return out
}

func lower(in []gwv1.Hostname) []string {
	var out []string
	for _, h := range in {
		if h := strings.ToLower(string(h)); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// attachRoutes ties every route to the listeners that take it, resolves what
// it refers to, and puts it into those listeners, oldest route first.
func (t *translator) attachRoutes() {
	t.routes = t.readRoutes()
	for _, r := range t.routes {
		for _, ref := range r.common.ParentRefs {
			if p := t.attach(r, ref); p != nil {
				r.parents = append(r.parents, p)
			}
		}
		if len(r.parents) == 0 {
			continue
		}
		if r.http != nil {
			t.resolveHTTP(r)
		} else {
			t.resolveL4(r)
		}
		for _, p := range r.parents {
			if p.rejected.ok() && !r.unsupported.ok() {
				p.rejected, p.attached = r.unsupported, nil
			}
			var unserved []string
			for _, a := range p.attached {
				a.listener.attached[r] = true
				if !a.listener.served() {
					unserved = append(unserved, fmt.Sprintf("%q", a.listener.spec.Name))
				}
				for _, h := range a.hostnames {
					p.place(r, a.listener, h)
				}
			}
			if len(unserved) > 0 {
				p.notes = append(p.notes, fmt.Sprintf("not served: listener %s, see the status of %s",
					strings.Join(unserved, ", "), p.attached[0].listener.parent()))
			}
		}
	}
}

// noteHTTPFirst says on TCPRoutes of HTTPS listeners what HTTPRoutes leave to
// them, once all routes are placed.
func (t *translator) noteHTTPFirst() {
	for _, r := range t.routes {
		if r.kind != "TCPRoute" {
			continue
		}
		for _, p := range r.parents {
			for _, a := range p.attached {
				if text := a.listener.httpFirst(); text != "" {
					p.notes = append(p.notes, text)
				}
			}
		}
	}
}

// httpFirst says which connections HTTPRoutes take, "" for none.
func (l *listener) httpFirst() string {
	if _, all := l.http[l.hostname]; all {
		return fmt.Sprintf("HTTPRoutes take every connection of listener %q", l.spec.Name)
	} else if len(l.http) > 0 {
		return fmt.Sprintf("HTTPRoutes take the connections of listener %q for %s",
			l.spec.Name, strings.Join(slices.SortedFunc(maps.Keys(l.http), config.CompareHostnames), ", "))
	}
	return ""
}

// place puts the route into a listener for one host name.
func (p *parent) place(r *route, l *listener, hostname string) {
	if r.http != nil {
		if slices.ContainsFunc(l.http[hostname], func(o rule) bool { return o.from == r }) {
			return // by another parentRef
		}
		l.http[hostname] = append(l.http[hostname], r.rules...)
		return
	}
	older := l.l4[hostname]
	if older == nil || older == r {
		l.l4[hostname] = r
		return
	}
	p.superseded = append(p.superseded, superseded{l, hostname, older})
	what := "all " + r.carries()
	if hostname != "" {
		what = fmt.Sprintf("the connections for %q", hostname)
	}
	p.notes = append(p.notes, fmt.Sprintf("on listener %q %s comes first (the older one, else by namespace and name) and gets %s",
		l.spec.Name, older.key(), what))
}

// attach finds the listeners for one parentRef. nil means that the parent is
// none of our business.
func (t *translator) attach(r *route, ref gwv1.ParentReference) *parent {
	p := &parent{ref: ref}
	of := parentKey(r, ref)
	listeners, missing, ours := t.parentOf(r.key(), value(ref.Group, gwv1.GroupName), of)
	switch {
	case !ours:
		return nil
	case !missing.ok():
		p.rejected = missing
		return p
	}
	p.of = listeners
	candidates := matching(listeners, ref)
	if len(candidates) == 0 {
		p.rejected = verdict{string(gwv1.RouteReasonNoMatchingParent), fmt.Sprintf("%s has no %s; it has %s",
			of, sectionText(ref), listenersText(listeners))}
		return p
	}
	otherHostname := false
	for _, l := range candidates {
		if no := l.refuseKind(r.kind); no.why != "" {
			p.skipped = append(p.skipped, no)
		} else if no := t.refuseNamespace(l, r.key()); no.why != "" {
			p.skipped = append(p.skipped, no)
		} else if hosts := r.hostnamesOn(l); len(hosts) == 0 {
			otherHostname = true
			p.skipped = append(p.skipped, refusal{listener: l, byHostname: true, cure: "change the one or the other",
				why: fmt.Sprintf("has %s, which none of the route's hostnames falls under", hostnameText(l.hostname))})
		} else {
			p.attached = append(p.attached, attachment{l, hosts})
		}
	}
	if r.kind == "TCPRoute" && ref.SectionName == nil && ref.Port == nil {
		p.keepNatural()
	}
	if len(p.attached) == 0 {
		reason := gwv1.RouteReasonNotAllowedByListeners
		if otherHostname {
			reason = gwv1.RouteReasonNoMatchingListenerHostname
		}
		p.rejected = verdict{string(reason), fmt.Sprintf("no listener of %s takes this %s: %s", of, r.kind, refusalText(p.skipped))}
	}
	return p
}

// keepNatural keeps a TCPRoute that names no listener off those that only our
// extension gives it, where it has others: it was most likely written without
// them in mind, and would get what comes in there for unknown names.
func (p *parent) keepNatural() {
	natural := func(a attachment) bool { return a.listener.spec.Protocol == gwv1.TCPProtocolType }
	if !slices.ContainsFunc(p.attached, natural) {
		return
	}
	p.attached = slices.DeleteFunc(p.attached, func(a attachment) bool {
		allowed := a.listener.spec.AllowedRoutes
		if natural(a) || allowed != nil && len(allowed.Kinds) > 0 {
			return false
		}
		p.skipped = append(p.skipped, refusal{listener: a.listener, why: fmt.Sprintf(
			"has protocol %s and takes a TCPRoute beside those with protocol TCP only by sectionName", a.listener.spec.Protocol)})
		return true
	})
}

// matching returns those of the listeners that a parentRef means.
func matching(of []*listener, ref gwv1.ParentReference) []*listener {
	var out []*listener
	for _, l := range of {
		if (ref.SectionName == nil || *ref.SectionName == l.spec.Name) && (ref.Port == nil || *ref.Port == l.spec.Port) {
			out = append(out, l)
		}
	}
	return out
}

func sectionText(ref gwv1.ParentReference) string {
	text := "listener"
	if ref.SectionName != nil {
		text += fmt.Sprintf(" %q", *ref.SectionName)
	}
	if ref.Port != nil {
		text += fmt.Sprintf(" with port %d", *ref.Port)
	}
	return text
}

func listenersText(of []*listener) string {
	var all []string
	for _, l := range of {
		all = append(all, fmt.Sprintf("%q (port %d)", l.spec.Name, l.spec.Port))
	}
	return strings.Join(all, ", ")
}

// refuseKind says why a listener does not take a kind of route, and where such
// a route would go.
func (l *listener) refuseKind(kind string) refusal {
	if slices.Contains(l.kinds, kind) {
		return refusal{}
	}
	natural := supportedKinds(l.spec.Protocol, l.passthrough)
	if len(l.kinds) == 0 && natural != nil {
		return refusal{listener: l, why: "has no kind in allowedRoutes.kinds that it can take", cure: fmt.Sprintf("write %s there", orNothing(natural))}
	}
	if slices.Contains(natural, kind) {
		return refusal{listener: l, why: fmt.Sprintf("takes %s only", orNothing(l.kinds)), cure: fmt.Sprintf("add %s to its allowedRoutes.kinds", kind)}
	}
	protocol := fmt.Sprintf("has protocol %s", l.spec.Protocol)
	if l.passthrough {
		protocol += " with tls.mode Passthrough"
	}
	return refusal{listener: l, why: fmt.Sprintf("%s and takes %s", protocol, orNothing(natural)), cure: map[string]string{
		"TCPRoute":  "use protocol TCP, or TLS with tls.mode Terminate",
		"TLSRoute":  "use protocol TLS",
		"HTTPRoute": "use protocol HTTP or HTTPS",
		"GRPCRoute": "GRPCRoute is not supported, use a TLSRoute, or an HTTPRoute with appProtocol kubernetes.io/h2c",
		"UDPRoute":  "use protocol UDP",
	}[kind]}
}

// refusalText puts refusals into words, and then what would help.
func refusalText(all []refusal) string {
	var whys, cures []string
	for _, r := range all {
		whys = append(whys, fmt.Sprintf("listener %q %s", r.listener.spec.Name, r.why))
		if !slices.Contains(cures, r.cure) {
			cures = append(cures, r.cure)
		}
	}
	return strings.Join(whys, ", ") + "; " + strings.Join(cures, "; ")
}

func orNothing(kinds []string) string {
	if len(kinds) == 0 {
		return "no routes"
	}
	return strings.Join(kinds, " and ")
}

// hostnamesOn returns the host names that the route has on a listener, none
// when it does not fit. A route without host names takes those of the listener,
// one of a kind without them takes every connection of the listener.
func (r *route) hostnamesOn(l *listener) []string {
	switch {
	case !r.named:
		return []string{""}
	case len(r.hostnames) == 0:
		return []string{l.hostname}
	}
	var out []string
	for _, h := range r.hostnames {
		if both, ok := intersect(h, l.hostname); ok && !slices.Contains(out, both) {
			out = append(out, both)
		}
	}
	return out
}
