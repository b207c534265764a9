// SPDX-License-Identifier: Apache-2.0

// Package lint says what is wrong with objects before they are served, and what
// wants a look: the translator's own verdicts, with files and lines.
//
// The objects of a file are seldom all there is: cert-manager makes the Secret,
// the cluster has the Service. What they refer to and is not among them is taken
// to be as it should, and noted.
package lint

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/folder"
	"github.com/sluice-gateway/sluice/controller/manifest"
	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/controller/translate/keypair"
)

// Soon is how long before its expiry a certificate is warned of.
const Soon = 30 * 24 * time.Hour

// Severity is how much a finding matters.
type Severity string

// An Error is not served as it is written, a Warning is and wants a look, a Note
// cannot be told from the files alone.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Finding is one thing to say.
type Finding struct {
	File     string   `json:"file"`
	Line     int      `json:"line,omitempty"`
	Severity Severity `json:"severity"`
	// Rule is the reason of a condition of the Gateway API, or a word of ours
	// with small letters.
	Rule    string `json:"rule"`
	Object  string `json:"object,omitempty"`
	Message string `json:"message"`
	// Fix is YAML that cures it, where that is all there is to do.
	Fix string `json:"fix,omitempty"`
}

// Options are what findings depend on besides the files.
type Options struct {
	// Controller and Class are those of Sluice; Gateways of other classes that
	// are not among the objects are not looked at.
	Controller, Class string
	Now               time.Time
}

// Check returns what there is to say of files, by file and line. errs is the
// error that reading them gave.
func Check(files *folder.Files, errs error, o Options) []Finding {
	c := &check{Options: o, files: files, parents: files.Resources.ParentRefs()}
	c.unreadable(errs)
	t := translate.Translate(files.Resources, translate.Options{ControllerName: o.Controller, DefaultClass: o.Class, Now: o.Now,
		ByNode: true, Partial: true})
	uses := t.Certificates()
	c.statuses(t, uses)
	c.routes(t.Routes())
	c.certificates(uses)
	for _, ref := range t.Absent {
		if files.Resources.Unread[ref.To] != "" {
			continue // it is there, and reported
		}
		c.add(Note, "absent", ref.From, absentText(ref), "spec", manifest.Value(ref.To.Name))
	}
	slices.SortStableFunc(c.found, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return slices.CompactFunc(c.found, func(a, b Finding) bool { return a == b })
}

type check struct {
	Options
	files   *folder.Files
	parents map[translate.Key][]gwv1.ParentReference
	found   []Finding
}

// add adds a finding of an object, at the path of a field (manifest.Line).
func (c *check) add(s Severity, rule string, object translate.Key, message string, path ...any) *Finding {
	f := Finding{Severity: s, Rule: rule, Object: object.String(), Message: message}
	f.File, f.Line = source(c.files.Resources.Sources[object])
	if text := c.files.Text[f.File]; text != nil {
		f.Line = manifest.Line(text, f.Line, object, path...)
	}
	c.found = append(c.found, f)
	return &c.found[len(c.found)-1]
}

// source takes "file:line" apart.
func source(s string) (file string, line int) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		if n, err := strconv.Atoi(s[i+1:]); err == nil {
			return s[:i], n
		}
	}
	return s, 0
}

// unreadable lists what could not be read as objects.
func (c *check) unreadable(err error) {
	if err == nil {
		return
	}
	if joined, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok {
		for _, err := range joined.Unwrap() {
			c.unreadable(err)
		}
		return
	}
	all, ok := errors.AsType[*manifest.Error](err)
	switch {
	case ok:
		f := Finding{File: all.File, Line: all.Line, Severity: Error, Rule: "not-valid", Message: all.Cause}
		if all.Object != (translate.Key{}) {
			f.Object = all.Object.String()
			if text := c.files.Text[all.File]; text != nil {
				f.Line = manifest.Line(text, all.Line, all.Object, fieldPath(all.Cause)...)
			}
		}
		c.found = append(c.found, f)
	default:
		f := Finding{Severity: Error, Rule: "not-read", Message: err.Error()}
		if at, text, ok := strings.Cut(err.Error(), ": "); ok {
			if file, line := source(at); line > 0 {
				f.File, f.Line, f.Rule, f.Message = file, line, "not-valid", text
			}
		}
		c.found = append(c.found, f)
	}
}

// fieldPath is the path of a field that a message begins with, as in
// "spec.listeners[0].port: …" or "unknown field \"spec.ports\"".
func fieldPath(message string) []any {
	for strings.HasPrefix(message, "items[") {
		_, message, _ = strings.Cut(message, ": ")
	}
	text, _, _ := strings.Cut(message, ": ")
	if quoted, ok := strings.CutPrefix(message, `unknown field "`); ok {
		text, _, _ = strings.Cut(quoted, `"`)
	}
	var path []any
	for part := range strings.SplitSeq(text, ".") {
		key, index, indexed := strings.Cut(strings.TrimSuffix(part, "]"), "[")
		path = append(path, key)
		if n, err := strconv.Atoi(index); indexed && err == nil {
			path = append(path, n)
		}
	}
	return path
}

// statuses lists what the conditions say. What only nodes can tell is left out.
func (c *check) statuses(t *translate.Translation, uses []translate.CertificateUse) {
	of := map[string]bool{}
	for _, u := range uses {
		for _, text := range append(slices.Clone(u.Expired), u.Mismatch) {
			of[u.Secret.String()+": "+text] = true
		}
		for _, w := range u.Warnings {
			of[u.Secret.String()+": "+w.Text] = true
		}
	}
	all := t.Statuses(translate.Feedback{})
	for i := range all {
		s := &all[i]
		idle := false
		for _, p := range s.Wrong() {
			if p.Condition == nil {
				idle = true
				c.add(Error, "no-parent", p.Object, p.Message, "spec")
				continue
			}
			if p.Condition.Type == "Programmed" && (p.Condition.Status == "Unknown" || p.Condition.Reason == string(gwv1.GatewayReasonAddressNotAssigned)) {
				continue
			}
			c.problem(t, p)
		}
		for _, w := range s.Warnings {
			if s.Route == nil && !idle && !of[w] {
				c.add(Warning, "warning", s.Key(), w, "spec")
			}
		}
	}
}

func (c *check) problem(t *translate.Translation, p translate.Problem) {
	path := []any{"spec"}
	message := p.Message
	switch {
	case p.Listener != "":
		path = append(path, "listeners", manifest.Named(p.Listener))
		message = fmt.Sprintf("listener %q: %s", p.Listener, message)
	case p.Parent != nil && p.Condition.Type == "ResolvedRefs":
		path = append(path, "rules")
	case p.Parent != nil:
		path = append(path, c.parentRef(p.Object, *p.Parent)...)
	}
	var fix string
	for _, ref := range t.Ungranted {
		if ref.From == p.Object && strings.Contains(p.Message, ref.To.String()+" is in another namespace") {
			fix = strings.TrimPrefix(fix+"---\n"+ref.Grant(), "---\n")
			path = append(path, manifest.Value(ref.To.Name))
		}
	}
	c.add(Error, p.Condition.Reason, p.Object, message, path...).Fix = fix
}

// parentRef is the path, below spec, of a parentRef.
func (c *check) parentRef(route translate.Key, ref gwv1.ParentReference) []any {
	for i, r := range c.parents[route] {
		if reflect.DeepEqual(r, ref) {
			return []any{"parentRefs", i}
		}
	}
	return []any{"parentRefs"}
}

// routes lists what of routes carries nothing, and what is not portable.
func (c *check) routes(all []translate.RouteView) {
	for _, r := range all {
		for _, w := range r.Warnings {
			c.add(Warning, "warning", r.Object, w, "spec", "rules")
		}
		for _, p := range r.Parents {
			at := append([]any{"spec"}, c.parentRef(r.Object, p.Ref)...)
			for _, l := range p.Listeners {
				for _, s := range l.Superseded {
					path := at
					what := "every connection"
					if s.What != "" {
						what, path = strconv.Quote(s.What), []any{"spec", "hostnames", manifest.Value(s.What)}
					}
					c.add(Warning, "superseded", r.Object, fmt.Sprintf("on listener %q of %s, %s has %s and comes first (the older one, else by namespace "+
						"and name); delete one of the two, or give them different hostnames", l.Name, p.Object, s.By, what), path...)
				}
				if l.Attached && l.Extension && l.Protocol == string(gwv1.HTTPSProtocolType) {
					c.add(Warning, "not-portable", r.Object, fmt.Sprintf("a TCPRoute on listener %q of %s, which has protocol HTTPS, is not portable: "+
						"Sluice carries the decrypted bytes by it, other gateways refuse it; portable is protocol TLS with tls.mode Terminate and a TLSRoute",
						l.Name, p.Object), at...)
				}
			}
		}
	}
}

// certificates lists what clients may object to, or will soon.
func (c *check) certificates(uses []translate.CertificateUse) {
	for _, u := range uses {
		where := fmt.Sprintf(" (listener %q of %s)", u.Listener, u.Object)
		add := func(rule, text string) { c.add(Warning, rule, u.Secret, text+where, "data", "tls.crt") }
		for _, text := range u.Expired {
			add("certificate-not-valid", text)
		}
		if left := u.NotAfter.Sub(c.Now); left > 0 && left < Soon {
			add("certificate-expires", fmt.Sprintf("the certificate expires on %s, in less than %d days; renew it",
				u.NotAfter.UTC().Format(time.DateOnly), int(left/(24*time.Hour))+1))
		}
		for _, w := range u.Warnings {
			if w.Rule != keypair.RSA || !besideECDSA(u, uses) {
				add(w.Rule, w.Text)
			}
		}
		if u.Mismatch != "" {
			c.add(Warning, "certificate-hostname", u.Object, fmt.Sprintf("listener %q: %s: %s", u.Listener, u.Secret, u.Mismatch),
				"spec", "listeners", manifest.Named(u.Listener), "hostname")
		}
	}
}

// besideECDSA tells whether clients that can do ECDSA get another certificate
// for the same names.
func besideECDSA(rsa translate.CertificateUse, all []translate.CertificateUse) bool {
	return slices.ContainsFunc(all, func(o translate.CertificateUse) bool {
		return !o.RSA && o.Object == rsa.Object && o.Listener == rsa.Listener &&
			!slices.ContainsFunc(rsa.Names, func(n string) bool { return !slices.Contains(o.Names, n) })
	})
}

func absentText(ref translate.Reference) string {
	switch ref.To.Kind {
	case "GatewayClass":
		return fmt.Sprintf("%s is not in the files, so the Gateway is not checked; -class %s does as if it were of Sluice", ref.To, ref.To.Name)
	case "Gateway", "ListenerSet":
		return fmt.Sprintf("%s is not in the files, so what it takes is not checked", ref.To)
	case "Namespace":
		return fmt.Sprintf("%s is not in the files, so its labels are not checked", ref.To)
	}
	return fmt.Sprintf("%s is not in the files and taken to be there", ref.To)
}
