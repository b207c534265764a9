// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

var (
	wellKnownPattern = regexp.MustCompile(`^(System|([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]))$`)
	uriPattern       = regexp.MustCompile(`^(([^:/?#]+):)(//([^/?#]*))([^?#]*)(\?([^#]*))?(#(.*))?`)
)

func checkBackendTLSPolicy(c *checker, o *gwv1.BackendTLSPolicy) {
	c.count("spec.targetRefs", len(o.Spec.TargetRefs), 1, 16)
	for i := range o.Spec.TargetRefs {
		c.target(i, o.Spec.TargetRefs)
	}
	c.backendValidation("spec.validation", &o.Spec.Validation)
	c.count("spec.options", len(o.Spec.Options), 0, 16)
	for _, k := range slices.Sorted(maps.Keys(o.Spec.Options)) {
		c.pattern("spec.options", string(k), 253, optionPattern, "the name of an option")
		if n := len(o.Spec.Options[k]); n > 4096 {
			c.addf("spec.options", "%s has %d characters, more than 4096", k, n)
		}
	}
}

func (c *checker) target(i int, all []gwv1.LocalPolicyTargetReferenceWithSectionName) {
	ref, path := &all[i], fmt.Sprintf("spec.targetRefs[%d]", i)
	c.group(path+".group", ref.Group)
	c.kind(path+".kind", ref.Kind)
	c.name(path+".name", string(ref.Name))
	c.section(path+".sectionName", ref.SectionName)
	for j := range i {
		o := &all[j]
		switch {
		case o.Group != ref.Group || o.Kind != ref.Kind || o.Name != ref.Name:
		case (text(o.SectionName) == "") != (text(ref.SectionName) == ""):
			c.addf(path, "refers to the same object as targetRefs[%d]; give both a sectionName", j)
		case text(o.SectionName) == text(ref.SectionName):
			c.addf(path, "is the same as targetRefs[%d]; remove one, or give them different sectionNames", j)
		}
	}
}

func (c *checker) backendValidation(path string, v *gwv1.BackendTLSPolicyValidation) {
	c.pattern(path+".hostname", string(v.Hostname), 253, subdomainPattern, "a lower-case host name")
	c.count(path+".caCertificateRefs", len(v.CACertificateRefs), 0, 8)
	for i, r := range v.CACertificateRefs {
		at := fmt.Sprintf("%s.caCertificateRefs[%d]", path, i)
		c.group(at+".group", r.Group)
		c.kind(at+".kind", r.Kind)
		c.name(at+".name", string(r.Name))
	}
	wellKnown := text(v.WellKnownCACertificates)
	if v.WellKnownCACertificates != nil {
		c.pattern(path+".wellKnownCACertificates", wellKnown, 253, wellKnownPattern, "System or example.com/name")
	}
	switch {
	case len(v.CACertificateRefs) > 0 && wellKnown != "":
		c.addf(path, "has both caCertificateRefs and wellKnownCACertificates; remove one")
	case len(v.CACertificateRefs) == 0 && wellKnown == "":
		c.addf(path, "needs caCertificateRefs, or wellKnownCACertificates: System")
	}
	c.count(path+".subjectAltNames", len(v.SubjectAltNames), 0, 5)
	for i := range v.SubjectAltNames {
		c.subjectAltName(fmt.Sprintf("%s.subjectAltNames[%d]", path, i), &v.SubjectAltNames[i])
	}
}

func (c *checker) subjectAltName(path string, n *gwv1.SubjectAltName) {
	oneOf(c, path+".type", n.Type, gwv1.HostnameSubjectAltNameType, gwv1.URISubjectAltNameType)
	if n.Hostname != "" {
		c.hostname(path+".hostname", string(n.Hostname))
	}
	if _, err := url.Parse(string(n.URI)); n.URI != "" && (err != nil || len(n.URI) > 253 || !uriPattern.MatchString(string(n.URI))) {
		c.addf(path+".uri", "%q is not a URI with a scheme and a host", n.URI)
	}
	for _, part := range []struct {
		typ      gwv1.SubjectAltNameType
		field, v string
	}{{gwv1.HostnameSubjectAltNameType, "hostname", string(n.Hostname)}, {gwv1.URISubjectAltNameType, "uri", string(n.URI)}} {
		switch {
		case n.Type == part.typ && part.v == "":
			c.addf(path+"."+part.field, "is required with type %s", n.Type)
		case n.Type != part.typ && part.v != "":
			c.addf(path+"."+part.field, "must not be set with type %s", n.Type)
		}
	}
}
