// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// checker gathers what is wrong with an object. Paths are those of the fields,
// as an API server would name them.
type checker struct{ problems []string }

func (c *checker) addf(path, format string, args ...any) {
	c.problems = append(c.problems, path+": "+fmt.Sprintf(format, args...))
}

// The patterns of the Gateway API's schemas (sigs.k8s.io/gateway-api, apis/v1).
var (
	hostnamePattern     = regexp.MustCompile(`^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	subdomainPattern    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	labelPattern        = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	kindPattern         = regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	controllerPattern   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$`)
	protocolPattern     = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$`)
	addressPattern      = regexp.MustCompile(`^Hostname|IPAddress|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$`)
	headerPattern       = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+\\-.^_\x60|~]+$")
	externalNamePattern = regexp.MustCompile(`^[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*\.?$`)
	durationPattern     = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)
	optionPattern       = regexp.MustCompile(`^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$`)
)

func (c *checker) metadata(o metav1.Object) {
	c.name("metadata.name", o.GetName())
	if o.GetName() != "" && !subdomainPattern.MatchString(o.GetName()) {
		c.addf("metadata.name", "%q is not a lower-case name of letters, digits, '-' and '.'", o.GetName())
	}
	if ns := o.GetNamespace(); ns != "" && (len(ns) > 63 || !labelPattern.MatchString(ns)) {
		c.addf("metadata.namespace", "%q is not a lower-case name of letters, digits and '-'", ns)
	}
}

// name checks the length of a required name.
func (c *checker) name(path, v string) {
	switch {
	case v == "":
		c.addf(path, "is required")
	case len(v) > 253:
		c.addf(path, "has %d characters, more than 253", len(v))
	}
}

func (c *checker) pattern(path, v string, limit int, p *regexp.Regexp, what string) {
	if len(v) > limit || !p.MatchString(v) {
		c.addf(path, "%q is not %s", v, what)
	}
}

func (c *checker) hostname(path, v string) {
	c.pattern(path, v, 253, hostnamePattern, "a lower-case host name or *.name")
}

func (c *checker) section(path string, v *gwv1.SectionName) {
	if v != nil {
		c.pattern(path, string(*v), 253, subdomainPattern, "a lower-case name")
	}
}

func (c *checker) port(path string, v gwv1.PortNumber) {
	if v < 1 || v > 65535 {
		c.addf(path, "%d is not a port, 1 to 65535", v)
	}
}

func (c *checker) count(path string, n, least, most int) {
	switch {
	case n < least && least == most:
		c.addf(path, "exactly %d is required", least)
	case n < least:
		c.addf(path, "at least %d is required", least)
	case n > most:
		c.addf(path, "%d are more than %d", n, most)
	}
}

func (c *checker) group(path string, v gwv1.Group) {
	if v != "" {
		c.pattern(path, string(v), 253, subdomainPattern, "an API group")
	}
}

func (c *checker) kind(path string, v gwv1.Kind) {
	c.pattern(path, string(v), 63, kindPattern, "a kind")
}

func (c *checker) namespace(path string, v *gwv1.Namespace) {
	if v != nil {
		c.pattern(path, string(*v), 63, labelPattern, "a namespace")
	}
}

func (c *checker) duration(path string, v *gwv1.Duration) {
	if v != nil {
		c.pattern(path, string(*v), 253, durationPattern, "a duration such as 10s or 1m500ms")
	}
}

// oneOf checks an enumeration.
func oneOf[T ~string](c *checker, path string, v T, allowed ...T) {
	var all []string
	for _, a := range allowed {
		if v == a {
			return
		}
		all = append(all, string(a))
	}
	c.addf(path, "%q is not one of %s", v, strings.Join(all, ", "))
}

// setDefault fills in a value that is not there.
func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func isIP(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == ""
}

// parents checks and defaults the parentRefs of a route.
func (c *checker) parents(spec *gwv1.CommonRouteSpec) {
	c.count("spec.parentRefs", len(spec.ParentRefs), 0, 32)
	for i := range spec.ParentRefs {
		p := &spec.ParentRefs[i]
		path := fmt.Sprintf("spec.parentRefs[%d]", i)
		setDefault(&p.Group, gwv1.GroupName)
		setDefault(&p.Kind, "Gateway")
		c.group(path+".group", *p.Group)
		c.kind(path+".kind", *p.Kind)
		c.namespace(path+".namespace", p.Namespace)
		c.name(path+".name", string(p.Name))
		c.section(path+".sectionName", p.SectionName)
		if p.Port != nil {
			c.port(path+".port", *p.Port)
		}
		for j := range i {
			o := &spec.ParentRefs[j]
			if *o.Group != *p.Group || *o.Kind != *p.Kind || o.Name != p.Name || text(o.Namespace) != text(p.Namespace) {
				continue
			}
			switch {
			case (text(o.SectionName) == "") != (text(p.SectionName) == ""):
				c.addf(path, "refers to the same parent as parentRefs[%d]; give both a sectionName", j)
			case text(o.SectionName) == text(p.SectionName):
				c.addf(path, "is the same as parentRefs[%d]; remove one, or give them different sectionNames", j)
			}
		}
	}
}

func text[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

// backend checks and defaults a reference to a backend.
func (c *checker) backend(path string, b *gwv1.BackendObjectReference) {
	setDefault(&b.Group, "")
	setDefault(&b.Kind, "Service")
	c.group(path+".group", *b.Group)
	c.kind(path+".kind", *b.Kind)
	c.name(path+".name", string(b.Name))
	c.namespace(path+".namespace", b.Namespace)
	switch {
	case b.Port != nil:
		c.port(path+".port", *b.Port)
	case *b.Group == "" && *b.Kind == "Service":
		c.addf(path+".port", "is required for a Service")
	}
}

func (c *checker) backendRef(path string, b *gwv1.BackendRef) {
	c.backend(path, &b.BackendObjectReference)
	setDefault(&b.Weight, 1)
	if w := *b.Weight; w < 0 || w > 1_000_000 {
		c.addf(path+".weight", "%d is not in 0 to 1000000", w)
	}
}
