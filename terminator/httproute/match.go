// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sluice-gateway/sluice/agent/config"
)

// hostname returns the name in a Host header as config.MatchHostname wants it.
func hostname(hostport string) string {
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		hostport = hostport[:i]
	}
	return strings.ToLower(strings.TrimSuffix(hostport, "."))
}

// normalized returns u with the dot segments of its path resolved (RFC 3986
// section 5.2.4), so that rules see the path that the backend will act upon.
//
// It reports false for targets on whose meaning backends disagree: those that
// are no path, and paths with more dot segments behind encoded slashes, between
// backslashes (Windows) or with parameters ("/..;x/": servlets drop ";x" first).
func normalized(u *url.URL) (url.URL, bool) {
	out := *u
	if u.Opaque != "" {
		return out, false
	}
	if u.Path == "" {
		out.Path = "/" // absolute form, as in "GET http://example.com"
	}
	// HTTP/2 lets spaces in; on the request line of HTTP/1 they would end the target.
	out.RawQuery = strings.ReplaceAll(u.RawQuery, " ", "%20")
	if !strings.Contains(u.Path, "/.") && !strings.Contains(u.Path, `\.`) {
		return out, true
	}
	setPath(&out, resolveDots(u.EscapedPath()))
	segments := strings.FieldsFunc(out.Path, func(r rune) bool { return r == '/' || r == '\\' })
	return out, !slices.ContainsFunc(segments, func(s string) bool {
		s, _, _ = strings.Cut(s, ";")
		return isDots(s)
	})
}

func isDots(segment string) bool { return segment == "." || segment == ".." }

func resolveDots(escaped string) string {
	var out []string
	segments := strings.Split(escaped, "/")
	for i, s := range segments {
		plain := strings.ReplaceAll(strings.ReplaceAll(s, "%2e", "."), "%2E", ".")
		if !isDots(plain) {
			out = append(out, s)
			continue
		}
		if plain == ".." && len(out) > 1 {
			out = out[:len(out)-1]
		}
		if i == len(segments)-1 {
			out = append(out, "")
		}
	}
	return strings.Join(out, "/")
}

// Match returns the rule for a request, nil when there is none, and its target
// without dot segments. It reports false where the target has no clear meaning.
func Match(hosts []config.HTTPHost, r *http.Request) (*config.HTTPRule, url.URL, bool) {
	target, ok := normalized(r.URL)
	if !ok {
		return nil, target, false
	}
	return find(hosts, hostname(r.Host), target.Path, r), target, true
}

// find returns the rule for a request, nil when there is none.
func find(hosts []config.HTTPHost, host, path string, r *http.Request) *config.HTTPRule {
	i := slices.IndexFunc(hosts, func(h config.HTTPHost) bool { return config.MatchHostname(h.Hostname, host) })
	if i < 0 {
		return nil
	}
	m := matcher{r: r, path: path}
	for j := range hosts[i].Rules {
		if rule := &hosts[i].Rules[j]; m.matches(&rule.Match) {
			return rule
		}
	}
	return nil
}

// matcher compares one request with matches.
type matcher struct {
	r     *http.Request
	path  string
	query url.Values
}

func (m *matcher) matches(want *config.HTTPMatch) bool {
	return (want.Method == "" || want.Method == m.r.Method) && m.matchPath(want) &&
		!slices.ContainsFunc(want.Headers, func(h config.HTTPHeader) bool { return !m.hasHeader(h) }) &&
		!slices.ContainsFunc(want.Query, func(q config.HTTPHeader) bool { return !m.hasParam(q) })
}

func (m *matcher) matchPath(want *config.HTTPMatch) bool {
	path := decoded(want.Path)
	if want.PathExact {
		return m.path == path
	}
	// "/" is every request, "OPTIONS *" too.
	path = strings.TrimSuffix(path, "/")
	rest, ok := strings.CutPrefix(m.path, path)
	return path == "" || ok && (rest == "" || rest[0] == '/')
}

// hasHeader takes a repeated header as one with its values joined by commas,
// as RFC 9110 section 5.2 has it.
func (m *matcher) hasHeader(want config.HTTPHeader) bool {
	if want.Name == "Host" {
		return m.r.Host == want.Value
	}
	values, ok := m.r.Header[want.Name]
	return ok && strings.Join(values, ",") == want.Value
}

// hasParam takes the first value of a repeated parameter, as the Gateway API
// recommends.
func (m *matcher) hasParam(want config.HTTPHeader) bool {
	if m.query == nil {
		m.query = m.r.URL.Query()
	}
	values := m.query[want.Name]
	return len(values) > 0 && values[0] == want.Value
}

// choose takes one of the backends at random by weight, nil when all weigh 0.
func choose(refs []config.HTTPBackendRef) *config.HTTPBackendRef {
	total := 0
	for i := range refs {
		total += refs[i].Weight
	}
	if total == 0 {
		return nil
	}
	n := rand.IntN(total)
	for i := range refs {
		if n -= refs[i].Weight; n < 0 {
			return &refs[i]
		}
	}
	return nil
}
