// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"regexp"
	"slices"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

var pathPattern = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$`)

// onlyOnce are the filters of which there may be one.
var onlyOnce = []gwv1.HTTPRouteFilterType{gwv1.HTTPRouteFilterRequestHeaderModifier, gwv1.HTTPRouteFilterResponseHeaderModifier,
	gwv1.HTTPRouteFilterRequestRedirect, gwv1.HTTPRouteFilterURLRewrite, gwv1.HTTPRouteFilterCORS}

func (c *checker) filters(path string, all []gwv1.HTTPRouteFilter) {
	var seen []gwv1.HTTPRouteFilterType
	for i := range all {
		f := &all[i]
		at := fmt.Sprintf("%s.filters[%d]", path, i)
		c.filter(at, f)
		if slices.Contains(seen, f.Type) && slices.Contains(onlyOnce, f.Type) {
			c.addf(at, "%s must not be repeated", f.Type)
		}
		seen = append(seen, f.Type)
	}
	if slices.Contains(seen, gwv1.HTTPRouteFilterRequestRedirect) && slices.Contains(seen, gwv1.HTTPRouteFilterURLRewrite) {
		c.addf(path+".filters", "RequestRedirect and URLRewrite exclude each other; remove one")
	}
}

func (c *checker) filter(path string, f *gwv1.HTTPRouteFilter) {
	parts := []struct {
		typ gwv1.HTTPRouteFilterType
		key string
		set bool
	}{
		{gwv1.HTTPRouteFilterRequestHeaderModifier, "requestHeaderModifier", f.RequestHeaderModifier != nil},
		{gwv1.HTTPRouteFilterResponseHeaderModifier, "responseHeaderModifier", f.ResponseHeaderModifier != nil},
		{gwv1.HTTPRouteFilterRequestMirror, "requestMirror", f.RequestMirror != nil},
		{gwv1.HTTPRouteFilterRequestRedirect, "requestRedirect", f.RequestRedirect != nil},
		{gwv1.HTTPRouteFilterURLRewrite, "urlRewrite", f.URLRewrite != nil},
		{gwv1.HTTPRouteFilterCORS, "cors", f.CORS != nil},
		{gwv1.HTTPRouteFilterExternalAuth, "externalAuth", f.ExternalAuth != nil},
		{gwv1.HTTPRouteFilterExtensionRef, "extensionRef", f.ExtensionRef != nil},
	}
	var types []gwv1.HTTPRouteFilterType
	for _, p := range parts {
		types = append(types, p.typ)
		switch {
		case p.typ == f.Type && !p.set:
			c.addf(path+"."+p.key, "is required with type %s", f.Type)
		case p.typ != f.Type && p.set:
			c.addf(path+"."+p.key, "must not be set with type %s", f.Type)
		}
	}
	oneOf(c, path+".type", f.Type, types...)
	if f.RequestHeaderModifier != nil {
		c.headers(path+".requestHeaderModifier", f.RequestHeaderModifier)
	}
	if f.ResponseHeaderModifier != nil {
		c.headers(path+".responseHeaderModifier", f.ResponseHeaderModifier)
	}
	if m := f.RequestMirror; m != nil {
		c.backend(path+".requestMirror.backendRef", &m.BackendRef)
	}
	if r := f.RequestRedirect; r != nil {
		c.redirect(path+".requestRedirect", r)
	}
	if r := f.URLRewrite; r != nil {
		c.precise(path+".urlRewrite.hostname", r.Hostname)
		c.modifier(path+".urlRewrite.path", r.Path)
	}
	if e := f.ExtensionRef; e != nil {
		c.group(path+".extensionRef.group", e.Group)
		c.kind(path+".extensionRef.kind", e.Kind)
		c.name(path+".extensionRef.name", string(e.Name))
	}
}

func (c *checker) headers(path string, h *gwv1.HTTPHeaderFilter) {
	c.headerList(path+".set", h.Set)
	c.headerList(path+".add", h.Add)
	c.count(path+".remove", len(h.Remove), 0, 16)
	for i, n := range h.Remove {
		if slices.Contains(h.Remove[:i], n) {
			c.addf(fmt.Sprintf("%s.remove[%d]", path, i), "%s is given twice", n)
		}
	}
}

func (c *checker) headerList(path string, list []gwv1.HTTPHeader) {
	c.count(path, len(list), 0, 16)
	for i, x := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.pair(at, string(x.Name), x.Value, 4096)
		if slices.ContainsFunc(list[:i], func(o gwv1.HTTPHeader) bool { return o.Name == x.Name }) {
			c.addf(at+".name", "%s is given twice", x.Name)
		}
	}
}

func (c *checker) redirect(path string, r *gwv1.HTTPRequestRedirectFilter) {
	if r.Scheme != nil {
		oneOf(c, path+".scheme", *r.Scheme, "http", "https")
	}
	c.precise(path+".hostname", r.Hostname)
	c.modifier(path+".path", r.Path)
	if r.Port != nil {
		c.port(path+".port", *r.Port)
	}
	setDefault(&r.StatusCode, 302)
	if codes := []int{301, 302, 303, 307, 308}; !slices.Contains(codes, *r.StatusCode) {
		c.addf(path+".statusCode", "%d is not one of 301, 302, 303, 307, 308", *r.StatusCode)
	}
}

func (c *checker) precise(path string, h *gwv1.PreciseHostname) {
	if h != nil {
		c.pattern(path, string(*h), 253, subdomainPattern, "a lower-case host name")
	}
}

func (c *checker) modifier(path string, m *gwv1.HTTPPathModifier) {
	if m == nil {
		return
	}
	oneOf(c, path+".type", m.Type, gwv1.FullPathHTTPPathModifier, gwv1.PrefixMatchHTTPPathModifier)
	full := m.Type == gwv1.FullPathHTTPPathModifier
	for _, p := range []struct {
		key   string
		value *string
		want  bool
	}{{"replaceFullPath", m.ReplaceFullPath, full}, {"replacePrefixMatch", m.ReplacePrefixMatch, !full}} {
		switch {
		case p.want && p.value == nil:
			c.addf(path+"."+p.key, "is required with type %s", m.Type)
		case !p.want && p.value != nil:
			c.addf(path+"."+p.key, "must not be set with type %s", m.Type)
		case p.value != nil && len(*p.value) > 1024:
			c.addf(path+"."+p.key, "has %d characters, more than 1024", len(*p.value))
		}
	}
}

// prefixRewrite checks that a replaced prefix has one prefix to replace.
func (c *checker) prefixRewrite(path string, f *gwv1.HTTPRouteFilter, matches []gwv1.HTTPRouteMatch) {
	var m *gwv1.HTTPPathModifier
	switch {
	case f.RequestRedirect != nil:
		m = f.RequestRedirect.Path
	case f.URLRewrite != nil:
		m = f.URLRewrite.Path
	}
	if m == nil || m.Type != gwv1.PrefixMatchHTTPPathModifier {
		return
	}
	if len(matches) != 1 || *matches[0].Path.Type != gwv1.PathMatchPathPrefix {
		c.addf(path, "ReplacePrefixMatch needs exactly one match in its rule, of type PathPrefix")
	}
}

// longer tells whether a timeout towards the backend exceeds the one for the
// whole request, where 0s is none.
func longer(backend, request *gwv1.Duration) bool {
	if backend == nil || request == nil {
		return false
	}
	b, errB := time.ParseDuration(string(*backend))
	r, errR := time.ParseDuration(string(*request))
	return errB == nil && errR == nil && r != 0 && b > r
}
