// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// rule is one match of an HTTPRoute as it is served, with what decides its
// place among those of other routes.
type rule struct {
	config.HTTPRule
	from *route
}

// compareRules is the order of precedence of the Gateway API (HTTPRouteRule):
// exact path, longest prefix, method, most headers, most query parameters,
// then the older route. Rules that are equal so far keep the order of their
// route.
func compareRules(a, b rule) int {
	return cmp.Or(
		trueFirst(a.Match.PathExact, b.Match.PathExact),
		cmp.Compare(len(b.Match.Path), len(a.Match.Path)),
		trueFirst(a.Match.Method != "", b.Match.Method != ""),
		cmp.Compare(len(b.Match.Headers), len(a.Match.Headers)),
		cmp.Compare(len(b.Match.Query), len(a.Match.Query)),
		compareAge(a.from.object, b.from.object),
	)
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// resolveHTTP turns the rules of an HTTPRoute into those to serve. A rule
// that asks for something that is not supported answers 500 where its match
// can be told, else it is left out.
func (t *translator) resolveHTTP(r *route) {
	var dropped []string
	incompatible := false
	for i := range r.http.Spec.Rules {
		spec := &r.http.Spec.Rules[i]
		base, problems := t.httpRule(r, spec)
		incompatible = incompatible || base.Redirect != nil && base.URLRewrite != nil
		matches := spec.Matches
		if len(matches) == 0 {
			matches = []gwv1.HTTPRouteMatch{{}}
		}
		var rules []rule
		for j := range matches {
			m, unsupported := httpMatch(&matches[j])
			if unsupported != "" {
				problems = append(problems, fmt.Sprintf("matches[%d]: %s", j, unsupported))
				continue
			}
			this := rule{HTTPRule: base, from: r}
			this.Match = m
			rules = append(rules, this)
		}
		if len(problems) > 0 {
			dropped = append(dropped, fmt.Sprintf("%s: %s", ruleText(i, spec), strings.Join(problems, "; ")))
			for j := range rules {
				rules[j].HTTPRule = config.HTTPRule{Route: rules[j].Route, Match: rules[j].Match, Invalid: true}
			}
		}
		r.rules = append(r.rules, rules...)
	}
	reason := string(gwv1.RouteReasonUnsupportedValue)
	switch {
	case incompatible:
		r.unsupported = verdict{string(gwv1.RouteReasonIncompatibleFilters), "rule " + strings.Join(dropped, "; rule ")}
	case len(dropped) > 0 && len(dropped) == len(r.http.Spec.Rules):
		r.unsupported = verdict{reason, "rule " + strings.Join(dropped, "; rule ")}
	case len(dropped) > 0:
		r.partially = verdict{reason, "Dropped Rule " + strings.Join(dropped, "; Dropped Rule ") + "; requests that match get status 500"}
	}
}

func ruleText(i int, r *gwv1.HTTPRouteRule) string {
	if r.Name != nil {
		return fmt.Sprintf("%d (%q)", i, *r.Name)
	}
	return fmt.Sprint(i)
}

// httpMatch turns a match around; unsupported says what it cannot express.
func httpMatch(m *gwv1.HTTPRouteMatch) (out config.HTTPMatch, unsupported string) {
	out = config.HTTPMatch{Path: "/", Method: string(value(m.Method, ""))}
	if m.Path != nil {
		out.Path = value(m.Path.Value, "/")
		switch typ := value(m.Path.Type, gwv1.PathMatchPathPrefix); typ {
		case gwv1.PathMatchExact:
			out.PathExact = true
		case gwv1.PathMatchPathPrefix:
			// A trailing slash makes no difference to a match by elements.
			if out.Path = strings.TrimRight(out.Path, "/"); out.Path == "" {
				out.Path = "/"
			}
		default:
			return out, fmt.Sprintf("path type %s is not supported; use Exact or PathPrefix", typ)
		}
	}
	for _, h := range m.Headers {
		if typ := value(h.Type, gwv1.HeaderMatchExact); typ != gwv1.HeaderMatchExact {
			return out, fmt.Sprintf("header %s: match type %s is not supported; use Exact", h.Name, typ)
		}
		// Of equal names the first one counts.
		header := config.HTTPHeader{Name: http.CanonicalHeaderKey(string(h.Name)), Value: h.Value}
		if !slices.ContainsFunc(out.Headers, func(o config.HTTPHeader) bool { return o.Name == header.Name }) {
			out.Headers = append(out.Headers, header)
		}
	}
	for _, q := range m.QueryParams {
		if typ := value(q.Type, gwv1.QueryParamMatchExact); typ != gwv1.QueryParamMatchExact {
			return out, fmt.Sprintf("query parameter %s: match type %s is not supported; use Exact", q.Name, typ)
		}
		param := config.HTTPHeader{Name: string(q.Name), Value: q.Value}
		if !slices.ContainsFunc(out.Query, func(o config.HTTPHeader) bool { return o.Name == param.Name }) {
			out.Query = append(out.Query, param)
		}
	}
	return out, ""
}

// httpRule turns everything of a rule but its matches around.
func (t *translator) httpRule(r *route, spec *gwv1.HTTPRouteRule) (out config.HTTPRule, problems []string) {
	out.Route = r.String()
	var f httpFilters
	for i := range spec.Filters {
		if v, p := f.add(&spec.Filters[i]); !v.ok() {
			r.refs = append(r.refs, v)
			out.Invalid = true
		} else if p != "" {
			problems = append(problems, fmt.Sprintf("filters[%d]: %s", i, p))
		}
	}
	if f.redirect != nil && f.rewrite != nil {
		problems = append(problems, "filters RequestRedirect and URLRewrite exclude each other; remove one")
	}
	out.Redirect, out.URLRewrite = f.redirect, f.rewrite
	out.RequestHeaders, out.ResponseHeaders = f.request, f.response
	for i := range spec.BackendRefs {
		b, p := t.httpBackendRef(r, &spec.BackendRefs[i])
		for _, p := range p {
			problems = append(problems, fmt.Sprintf("backendRefs[%d]: %s", i, p))
		}
		out.Backends = append(out.Backends, b)
	}
	if spec.Timeouts != nil {
		var p []string
		out.RequestTimeout, p = duration("timeouts.request", spec.Timeouts.Request, p)
		out.BackendTimeout, p = duration("timeouts.backendRequest", spec.Timeouts.BackendRequest, p)
		problems = append(problems, p...)
	}
	if spec.Retry != nil {
		problems = append(problems, "retry is not supported; remove it")
	}
	if spec.SessionPersistence != nil {
		problems = append(problems, "sessionPersistence is not supported; remove it")
	}
	if len(spec.BackendRefs) == 0 && f.redirect == nil {
		r.warn("a rule without backendRefs and without RequestRedirect answers 500")
	}
	return out, problems
}

func (t *translator) httpBackendRef(r *route, ref *gwv1.HTTPBackendRef) (out config.HTTPBackendRef, problems []string) {
	b, v := t.resolve(r, ref.BackendObjectReference)
	weight := value(ref.Weight, 1)
	if !v.ok() {
		if weight > 0 {
			v.message += "; its share of requests gets status 500"
		}
		r.refs = append(r.refs, v)
	}
	out.BackendRef = config.BackendRef{Backend: b, Weight: int(weight)}
	var f httpFilters
	for i := range ref.Filters {
		v, p := f.add(&ref.Filters[i])
		switch {
		case !v.ok():
			r.refs = append(r.refs, v)
			out.Backend = "" // its requests must not skip the filter
		case p != "":
			problems = append(problems, fmt.Sprintf("filters[%d]: %s", i, p))
		case ref.Filters[i].Type == gwv1.HTTPRouteFilterRequestRedirect || ref.Filters[i].Type == gwv1.HTTPRouteFilterURLRewrite:
			problems = append(problems, fmt.Sprintf("filters[%d]: %s is supported on rules only; move it there", i, ref.Filters[i].Type))
		}
	}
	out.RequestHeaders, out.ResponseHeaders = f.request, f.response
	return out, problems
}

// duration reads a duration in the form of GEP-2257; 0 is no limit.
func duration(field string, d *gwv1.Duration, problems []string) (time.Duration, []string) {
	if d == nil {
		return 0, problems
	}
	v, err := time.ParseDuration(string(*d))
	if err != nil || v < 0 {
		return 0, append(problems, fmt.Sprintf("%s: %q is not a duration such as 10s or 500ms", field, *d))
	}
	return v, problems
}
