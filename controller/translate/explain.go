// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate/keypair"
)

// RouteView is what became of a route.
type RouteView struct {
	Object Key `json:"object"`
	// Source is where it was written, where that is known.
	Source  string       `json:"source,omitempty"`
	Parents []ParentView `json:"parents,omitempty"`
	// Backends says what its references lead to, in words, and Problems what is
	// wrong with them.
	Backends []string `json:"backends,omitempty"`
	Problems []string `json:"problems,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	// Grants are the ReferenceGrants, in YAML, that it lacks.
	Grants []string `json:"grants,omitempty"`
}

// ParentView is one parentRef of a route.
type ParentView struct {
	// Object is the parent, Ref what the route says of it.
	Object Key                  `json:"object"`
	Ref    gwv1.ParentReference `json:"ref"`
	// Refused is why nothing of the parent takes the route, "" when something does.
	Refused   string         `json:"refused,omitempty"`
	Listeners []ListenerView `json:"listeners,omitempty"`
}

// ListenerView is what a listener of a parent makes of a route.
type ListenerView struct {
	Name     string `json:"name"`
	Port     int32  `json:"port"`
	Protocol string `json:"protocol"`
	Hostname string `json:"hostname,omitempty"`
	Attached bool   `json:"attached"`
	// Hostnames are those that the route has there; "" is every connection.
	Hostnames []string `json:"hostnames,omitempty"`
	// Why says why it is not attached, or carries less than it may seem, Cure
	// what to change.
	Why  string `json:"why,omitempty"`
	Cure string `json:"cure,omitempty"`
	// Superseded is where an older route comes first.
	Superseded []Supersession `json:"superseded,omitempty"`
	// NotServed is why the listener carries nothing at all.
	NotServed string `json:"notServed,omitempty"`
	// Extension says that other gateways do not let such a route attach here.
	Extension bool `json:"extension,omitempty"`
}

// Supersession is what another route has instead.
type Supersession struct {
	// What is the host name, "" for every connection; with HTTP a match of it.
	What string `json:"what"`
	By   Key    `json:"by"`
}

// Routes tells what became of each route that has to do with us, by kind,
// namespace and name.
func (t *Translation) Routes() []RouteView {
	var out []RouteView
	for _, r := range t.translator.routes {
		if len(r.parents) == 0 {
			continue
		}
		v := RouteView{Object: r.key(), Source: t.translator.in.Sources[r.key()], Warnings: r.warnings}
		for _, p := range r.parents {
			v.Parents = append(v.Parents, p.view(r))
		}
		for _, b := range r.backends {
			if b.Backend != "" {
				v.Backends = append(v.Backends, fmt.Sprintf("%s, weight %d", b.Backend, b.Weight))
			}
		}
		for _, rule := range r.rules {
			for _, b := range rule.Backends {
				if text := fmt.Sprintf("%s, weight %d", b.Backend, b.Weight); b.Backend != "" && !slices.Contains(v.Backends, text) {
					v.Backends = append(v.Backends, text)
				}
			}
		}
		for _, ref := range append(slices.Clone(r.refs), r.unsupported, r.partially) {
			if !ref.ok() && !slices.Contains(v.Problems, ref.message) {
				v.Problems = append(v.Problems, ref.message)
			}
		}
		for _, ref := range t.Ungranted {
			if ref.From == v.Object {
				v.Grants = append(v.Grants, ref.Grant())
			}
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b RouteView) int { return strings.Compare(a.Object.String(), b.Object.String()) })
	return out
}

// Wrong tells whether the route does not carry all that it asks for.
func (v *RouteView) Wrong() bool {
	return len(v.Problems) > 0 || slices.ContainsFunc(v.Parents, func(p ParentView) bool {
		return p.Refused != "" || slices.ContainsFunc(p.Listeners, func(l ListenerView) bool { return len(l.Superseded) > 0 || l.Attached && l.NotServed != "" })
	})
}

func (p *parent) view(r *route) ParentView {
	v := ParentView{Object: parentKey(r, p.ref), Ref: p.ref, Refused: p.rejected.message}
	for _, l := range p.of {
		v.Listeners = append(v.Listeners, p.viewListener(r, l))
	}
	return v
}

func (p *parent) viewListener(r *route, l *listener) ListenerView {
	v := ListenerView{Name: string(l.spec.Name), Port: l.spec.Port, Protocol: string(l.spec.Protocol), Hostname: l.hostname}
	if i := slices.IndexFunc(p.attached, func(a attachment) bool { return a.listener == l }); i >= 0 {
		v.Attached, v.Hostnames = true, p.attached[i].hostnames
		v.Extension = l.extends(r.kind)
		if !l.served() {
			v.NotServed = l.unserved()
		}
		v.Superseded = p.supersededOn(r, l)
		if rules := l.http[l.hostname]; r.kind == "TCPRoute" && len(rules) > 0 {
			v.Superseded = append(v.Superseded, Supersession{"", rules[0].from.key()})
		} else if r.kind == "TCPRoute" {
			v.Why = l.httpFirst()
		}
		return v
	}
	if i := slices.IndexFunc(p.skipped, func(s refusal) bool { return s.listener == l }); i >= 0 {
		v.Why, v.Cure = p.skipped[i].why, p.skipped[i].cure
	} else if len(matching([]*listener{l}, p.ref)) == 0 {
		v.Why = "is not the " + sectionText(p.ref) + " that the parentRef names"
	} else {
		v.Why = "does not take the route: " + p.rejected.message
	}
	return v
}

// supersededOn is where, on a listener, older routes come first.
func (p *parent) supersededOn(r *route, l *listener) []Supersession {
	var out []Supersession
	for _, s := range p.superseded {
		if s.listener == l {
			out = append(out, Supersession{s.hostname, s.by.key()})
		}
	}
	if r.http == nil {
		return out
	}
	for _, a := range p.attached {
		for _, h := range a.hostnames {
			if a.listener != l {
				continue
			}
			rules := slices.Clone(l.http[h])
			slices.SortStableFunc(rules, compareRules)
			for i, mine := range rules {
				j := slices.IndexFunc(rules[:i], func(o rule) bool { return o.from != r && reflect.DeepEqual(o.Match, mine.Match) })
				if mine.from == r && j >= 0 {
					what := strings.TrimSpace(mine.Match.Method + " " + h + mine.Match.Path)
					out = append(out, Supersession{what, rules[j].from.key()})
				}
			}
		}
	}
	return out
}

// extends tells whether the listener takes a kind of route only by our
// extension of the Gateway API.
func (l *listener) extends(kind string) bool {
	return kind == "TCPRoute" && l.spec.Protocol != gwv1.TCPProtocolType
}

// unserved is why the listener carries nothing.
func (l *listener) unserved() string {
	g := first(append([]verdict{l.gateway.class, l.gateway.accepted, l.gateway.programmed, l.acceptance()}, l.refs...))
	if g.ok() {
		return l.valid().message
	}
	return g.message
}

// CertificateUse is a certificate on a listener.
type CertificateUse struct {
	// Listener belongs to Object, a Gateway or a ListenerSet.
	Object   Key
	Listener string
	Secret   Key
	Names    []string
	RSA      bool
	NotAfter time.Time
	// Expired says what of the chain is not valid now, Mismatch that it is for
	// other names than the listener.
	Expired  []string
	Warnings []keypair.Warning
	Mismatch string
}

// Certificates tells of the certificates of all listeners. Those that are not
// among the objects are left out.
func (t *Translation) Certificates() []CertificateUse {
	var out []CertificateUse
	for _, g := range t.translator.gateways {
		for _, l := range g.listeners {
			for _, c := range l.certificates {
				if c.notAfter.IsZero() {
					continue
				}
				namespace, secret, _ := strings.Cut(c.config.Name, "/")
				out = append(out, CertificateUse{Object: l.parent(), Listener: string(l.spec.Name), Secret: Key{"Secret", namespace, secret}, Names: c.names,
					RSA:      slices.ContainsFunc(c.warnings, func(w keypair.Warning) bool { return w.Rule == keypair.RSA }),
					NotAfter: c.notAfter, Expired: c.expiry, Warnings: c.warnings, Mismatch: l.mismatch(c)})
			}
		}
	}
	return out
}
