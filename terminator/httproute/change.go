// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"cmp"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/sluice-gateway/sluice/agent/config"
)

// change applies header changes. Headers that frame the message are left
// alone: they belong to the connection, and a wrong one would let a part of
// one message be read as another.
func change(h http.Header, c *config.HTTPHeaders) {
	if c == nil {
		return
	}
	for _, name := range c.Remove {
		if !framing(name) {
			h.Del(name)
		}
	}
	for _, s := range c.Set {
		if !framing(s.Name) {
			h.Set(s.Name, s.Value)
		}
	}
	for _, a := range c.Add {
		if !framing(a.Name) {
			h.Add(a.Name, a.Value)
		}
	}
}

func framing(name string) bool {
	return strings.EqualFold(name, "Content-Length") || strings.EqualFold(name, "Transfer-Encoding")
}

// decoded returns a path of a route without percent-encoding.
func decoded(path string) string {
	if p, err := url.PathUnescape(path); err == nil {
		return p
	}
	return path
}

// setPath gives u a path in its encoded form, or in plain form when it is not
// a valid encoding.
func setPath(u *url.URL, escaped string) {
	if !strings.HasPrefix(escaped, "/") {
		escaped = "/" + escaped
	}
	u.Path, u.RawPath = decoded(escaped), escaped
}

// changePath applies a path change to u, whose path m matched.
func changePath(u *url.URL, m *config.HTTPMatch, c *config.HTTPPathChange) {
	switch {
	case c == nil:
	case c.Full != nil:
		setPath(u, *c.Full)
	default:
		prefix := strings.TrimSuffix(decoded(m.Path), "/")
		setPath(u, strings.TrimSuffix(c.Prefix, "/")+after(u.EscapedPath(), len(prefix)))
	}
}

// after returns what follows the first n decoded bytes of an encoded path.
func after(escaped string, n int) string {
	for ; n > 0 && escaped != ""; n-- {
		if escaped[0] == '%' && len(escaped) >= 3 {
			escaped = escaped[2:]
		}
		escaped = escaped[1:]
	}
	return escaped
}

// redirect answers with the Location that a rule makes of a request.
func redirect(w http.ResponseWriter, r *http.Request, rule *config.HTTPRule, to url.URL, host string, listenerPort uint16) {
	d := rule.Redirect
	to.Scheme = cmp.Or(d.Scheme, scheme(r))
	name := cmp.Or(d.Hostname, host)
	if name == "" {
		// Without a name the Location would be a path, and "//x" in it a host.
		http.Error(w, "the request has no host to redirect to", http.StatusBadRequest)
		return
	}
	wellKnown := map[string]uint16{"http": 80, "https": 443}
	port := d.Port
	if port == 0 && d.Scheme != "" {
		port = wellKnown[d.Scheme]
	}
	if port = cmp.Or(port, listenerPort); port != 0 && port != wellKnown[to.Scheme] {
		name = net.JoinHostPort(strings.Trim(name, "[]"), strconv.Itoa(int(port)))
	}
	to.Host, to.User = name, nil
	changePath(&to, &rule.Match, d.Path)
	change(w.Header(), rule.ResponseHeaders)
	w.Header().Set("Location", to.String())
	w.WriteHeader(cmp.Or(d.Code, http.StatusFound))
}

// scheme is the scheme that the client used.
func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
