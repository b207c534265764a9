// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/terminator/balance"
	"github.com/sluice-gateway/sluice/terminator/httproute"
)

// explainHTTP finds the listener of a request without TLS.
func (st *state) explainHTTP(x *Explanation, p *port) {
	if !x.enters(p.first) {
		return
	}
	host := normalName(x.Question.SNI)
	l, ok := p.byName.find(host)
	x.HTTP = true
	if !ok {
		x.Listener, x.Status = "", http.StatusNotFound
		x.step("host %q: no listener of the port has it (%s); the answer is 404", host, hostnames(&p.byName))
		return
	}
	x.Listener = l.config.Name
	x.step("host %q: listener %s takes it, by %s, the most specific", host, l.config.Name, hostnameText(l.config.Hostname))
	st.explainRequest(x, l, l.config.HTTP)
}

// explainRequest finds the rule of a request.
func (st *state) explainRequest(x *Explanation, l *listener, hosts []config.HTTPHost) {
	x.HTTP = true
	q := &x.Question
	u, err := url.ParseRequestURI(q.Path)
	if err != nil {
		x.Status = http.StatusBadRequest
		x.step("path %q is none", q.Path)
		return
	}
	what := fmt.Sprintf("%s %s%s", q.Method, q.SNI, q.Path)
	rule, _, ok := httproute.Match(hosts, &http.Request{Method: q.Method, URL: u, Host: q.SNI, Header: http.Header{}})
	switch {
	case !ok:
		x.Status = http.StatusBadRequest
		x.step("%s has no clear meaning; the answer is 400", what)
		return
	case rule == nil:
		x.Status = http.StatusNotFound
		x.step("no rule of an HTTPRoute matches %s; the answer is 404", what)
		return
	}
	x.Route = rule.Route
	x.step("%s matches a rule of %s (%s)", what, rule.Route, ruleText(&rule.Match))
	var refs []balance.Ref
	for _, b := range rule.Backends {
		refs = append(refs, balance.Ref{Backend: st.backends[b.Backend], Weight: b.Weight})
	}
	switch {
	case rule.Invalid:
		x.Status = http.StatusInternalServerError
		x.step("the rule cannot be honored, see the status of the route; the answer is 500")
	case rule.Redirect != nil:
		x.Status = rule.Redirect.Code
		x.step("the answer is a redirect, %d", rule.Redirect.Code)
	default:
		st.share(x, refs)
		if !slices.ContainsFunc(refs, func(r balance.Ref) bool { return r.Backend != nil && r.Weight > 0 }) {
			x.Status = http.StatusInternalServerError
			x.step("there is no backend; the answer is 500")
		}
	}
}

func ruleText(m *config.HTTPMatch) string {
	text := "path prefix " + m.Path
	if m.PathExact {
		text = "path " + m.Path
	}
	if m.Method != "" {
		text = m.Method + " " + text
	}
	for _, h := range m.Headers {
		text += fmt.Sprintf(", header %s", h.Name)
	}
	for _, q := range m.Query {
		text += fmt.Sprintf(", query %s", q.Name)
	}
	return text
}
