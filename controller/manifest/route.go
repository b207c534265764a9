// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"slices"
	"strings"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func checkTCPRoute(c *checker, o *gwv1.TCPRoute) {
	c.parents(&o.Spec.CommonRouteSpec)
	c.count("spec.rules", len(o.Spec.Rules), 1, 1)
	for i := range o.Spec.Rules {
		c.l4Rule(i, o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs)
	}
}

func checkTLSRoute(c *checker, o *gwv1.TLSRoute) {
	c.parents(&o.Spec.CommonRouteSpec)
	c.count("spec.hostnames", len(o.Spec.Hostnames), 1, 1024)
	for i, h := range o.Spec.Hostnames {
		path := fmt.Sprintf("spec.hostnames[%d]", i)
		if isIP(string(h)) {
			c.addf(path, "%q is an IP address; clients send names only (RFC 6066), use a TCPRoute", h)
			continue
		}
		c.hostname(path, string(h))
	}
	c.count("spec.rules", len(o.Spec.Rules), 1, 1)
	for i := range o.Spec.Rules {
		c.l4Rule(i, o.Spec.Rules[i].Name, o.Spec.Rules[i].BackendRefs)
	}
}

func (c *checker) l4Rule(i int, name *gwv1.SectionName, refs []gwv1.BackendRef) {
	path := fmt.Sprintf("spec.rules[%d]", i)
	c.section(path+".name", name)
	c.count(path+".backendRefs", len(refs), 1, 16)
	for j := range refs {
		c.backendRef(fmt.Sprintf("%s.backendRefs[%d]", path, j), &refs[j])
	}
}

func checkHTTPRoute(c *checker, o *gwv1.HTTPRoute) {
	c.parents(&o.Spec.CommonRouteSpec)
	c.count("spec.hostnames", len(o.Spec.Hostnames), 0, 16)
	for i, h := range o.Spec.Hostnames {
		c.hostname(fmt.Sprintf("spec.hostnames[%d]", i), string(h))
	}
	if o.Spec.Rules == nil {
		o.Spec.Rules = []gwv1.HTTPRouteRule{{}}
	}
	c.count("spec.rules", len(o.Spec.Rules), 1, 16)
	total := 0
	for i := range o.Spec.Rules {
		r := &o.Spec.Rules[i]
		path := fmt.Sprintf("spec.rules[%d]", i)
		if r.Matches == nil {
			r.Matches = []gwv1.HTTPRouteMatch{{}}
		}
		c.count(path+".matches", len(r.Matches), 0, 64)
		total += len(r.Matches)
		for j := range r.Matches {
			c.match(fmt.Sprintf("%s.matches[%d]", path, j), &r.Matches[j])
		}
		c.httpRule(path, r)
	}
	if total > 128 {
		c.addf("spec.rules", "%d matches are more than 128", total)
	}
}

func (c *checker) match(path string, m *gwv1.HTTPRouteMatch) {
	setDefault(&m.Path, gwv1.HTTPPathMatch{})
	setDefault(&m.Path.Type, gwv1.PathMatchPathPrefix)
	setDefault(&m.Path.Value, "/")
	oneOf(c, path+".path.type", *m.Path.Type, gwv1.PathMatchExact, gwv1.PathMatchPathPrefix, gwv1.PathMatchRegularExpression)
	if *m.Path.Type != gwv1.PathMatchRegularExpression {
		c.path(path+".path.value", *m.Path.Value)
	}
	if len(*m.Path.Value) > 1024 {
		c.addf(path+".path.value", "has %d characters, more than 1024", len(*m.Path.Value))
	}
	c.count(path+".headers", len(m.Headers), 0, 16)
	for i := range m.Headers {
		h := &m.Headers[i]
		at := fmt.Sprintf("%s.headers[%d]", path, i)
		setDefault(&h.Type, gwv1.HeaderMatchExact)
		oneOf(c, at+".type", *h.Type, gwv1.HeaderMatchExact, gwv1.HeaderMatchRegularExpression)
		c.pair(at, string(h.Name), h.Value, 4096)
		if slices.ContainsFunc(m.Headers[:i], func(o gwv1.HTTPHeaderMatch) bool { return o.Name == h.Name }) {
			c.addf(at+".name", "%s is given twice", h.Name)
		}
	}
	c.count(path+".queryParams", len(m.QueryParams), 0, 16)
	for i := range m.QueryParams {
		q := &m.QueryParams[i]
		at := fmt.Sprintf("%s.queryParams[%d]", path, i)
		setDefault(&q.Type, gwv1.QueryParamMatchExact)
		oneOf(c, at+".type", *q.Type, gwv1.QueryParamMatchExact, gwv1.QueryParamMatchRegularExpression)
		c.pair(at, string(q.Name), q.Value, 1024)
		if slices.ContainsFunc(m.QueryParams[:i], func(o gwv1.HTTPQueryParamMatch) bool { return o.Name == q.Name }) {
			c.addf(at+".name", "%s is given twice", q.Name)
		}
	}
	if m.Method != nil {
		oneOf(c, path+".method", *m.Method, gwv1.HTTPMethodGet, gwv1.HTTPMethodHead, gwv1.HTTPMethodPost, gwv1.HTTPMethodPut,
			gwv1.HTTPMethodDelete, gwv1.HTTPMethodConnect, gwv1.HTTPMethodOptions, gwv1.HTTPMethodTrace, gwv1.HTTPMethodPatch)
	}
}

// path checks a path that is compared with those of requests, which have no
// dot segments and no fragment left.
func (c *checker) path(path, v string) {
	if !strings.HasPrefix(v, "/") {
		c.addf(path, "%q must start with '/'", v)
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F", "#"} {
		if strings.Contains(v, bad) {
			c.addf(path, "%q must not contain %q", v, bad)
		}
	}
	for _, bad := range []string{"/..", "/."} {
		if strings.HasSuffix(v, bad) {
			c.addf(path, "%q must not end in %q", v, bad)
		}
	}
	if !pathPattern.MatchString(v) {
		c.addf(path, "%q has characters that a path must not have; percent-encode them", v)
	}
}

func (c *checker) pair(path, name, value string, limit int) {
	c.pattern(path+".name", name, 256, headerPattern, "the name of a header or parameter")
	if value == "" || len(value) > limit {
		c.addf(path+".value", "must have 1 to %d characters", limit)
	}
}

func (c *checker) httpRule(path string, r *gwv1.HTTPRouteRule) {
	c.section(path+".name", r.Name)
	c.count(path+".filters", len(r.Filters), 0, 16)
	c.filters(path, r.Filters)
	c.count(path+".backendRefs", len(r.BackendRefs), 0, 16)
	redirects := false
	for i := range r.Filters {
		redirects = redirects || r.Filters[i].RequestRedirect != nil
		c.prefixRewrite(fmt.Sprintf("%s.filters[%d]", path, i), &r.Filters[i], r.Matches)
	}
	if redirects && len(r.BackendRefs) > 0 {
		c.addf(path, "filter RequestRedirect answers by itself; remove it or the backendRefs")
	}
	for i := range r.BackendRefs {
		at := fmt.Sprintf("%s.backendRefs[%d]", path, i)
		b := &r.BackendRefs[i]
		c.backendRef(at, &b.BackendRef)
		c.count(at+".filters", len(b.Filters), 0, 16)
		c.filters(at, b.Filters)
		for j := range b.Filters {
			c.prefixRewrite(fmt.Sprintf("%s.filters[%d]", at, j), &b.Filters[j], r.Matches)
		}
	}
	if t := r.Timeouts; t != nil {
		c.duration(path+".timeouts.request", t.Request)
		c.duration(path+".timeouts.backendRequest", t.BackendRequest)
		if longer(t.BackendRequest, t.Request) {
			c.addf(path+".timeouts.backendRequest", "%s is longer than timeouts.request, %s", *t.BackendRequest, *t.Request)
		}
	}
}
