// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// policy is a BackendTLSPolicy on its way to a status. It holds for HTTPRoutes,
// and for TLSRoutes and TCPRoutes wherever the gateway has the bytes in the
// clear: on listeners that terminate TLS, and on those with protocol TCP.
type policy struct {
	object *gwv1.BackendTLSPolicy
	tls    config.BackendTLS
	// invalid is why nothing may be sent to its targets, accepted everything
	// else that keeps it from holding.
	invalid  []verdict
	accepted []verdict
	refs     []verdict
	warnings []string
	// ancestors are the Gateways that the status tells of, untold is how many more
	// the policy concerns.
	ancestors []*gateway
	untold    int
}

func (p *policy) key() Key { return keyOf("BackendTLSPolicy", p.object) }

func (p *policy) String() string { return p.key().String() }

// readPolicies reads the BackendTLSPolicies, oldest first, and settles which of
// them hold for a Service.
func (t *translator) readPolicies() {
	for _, o := range byAge(t.in.BackendTLSPolicies) {
		p := &policy{object: o}
		t.readValidation(p)
		for i, ref := range o.Spec.TargetRefs {
			t.readTarget(p, &o.Spec.TargetRefs[i])
			of := name{o.Namespace, string(ref.Name)}
			if ref.Group == "" && ref.Kind == "Service" && !slices.Contains(t.policies[of], p) {
				t.policies[of] = append(t.policies[of], p)
			}
		}
		t.policyList = append(t.policyList, p)
	}
}

// readTarget says what keeps a policy from a target: that it does not exist, or
// an older policy for the same.
func (t *translator) readTarget(p *policy, ref *gwv1.LocalPolicyTargetReferenceWithSectionName) {
	if ref.Group != "" || ref.Kind != "Service" {
		p.accepted = append(p.accepted, verdict{string(gwv1.PolicyReasonTargetNotFound), fmt.Sprintf(
			"targetRef %q has kind %s of group %q; only Service of group \"\" is supported", ref.Name, ref.Kind, ref.Group)})
		return
	}
	of := name{p.object.Namespace, string(ref.Name)}
	service, section := t.services[of], value(ref.SectionName, "")
	switch {
	case service == nil && t.assume(Reference{p.key(), Key{"Service", of.namespace, of.name}}):
	case service == nil:
		p.accepted = append(p.accepted, verdict{string(gwv1.PolicyReasonTargetNotFound), t.in.absent(Key{"Service", of.namespace, of.name}, "create it, or correct the name in targetRefs")})
	case section != "" && !slices.ContainsFunc(service.Spec.Ports, func(s corev1.ServicePort) bool { return s.Name == string(section) }):
		p.accepted = append(p.accepted, verdict{string(gwv1.PolicyReasonTargetNotFound), fmt.Sprintf(
			"Service %s has no port with name %q; %s", of, section, portNamesText(service))})
	}
	i := slices.IndexFunc(t.policies[of], func(o *policy) bool { return o != p && o.names(of, section) })
	if i >= 0 {
		p.accepted = append(p.accepted, verdict{string(gwv1.PolicyReasonConflicted), fmt.Sprintf(
			"%s comes first (the older one, else by namespace and name) and holds for %s; delete one of the two, or give them different sectionNames",
			t.policies[of][i], targetText(of, section))})
	}
}

// names tells whether the policy has this very target.
func (p *policy) names(service name, section gwv1.SectionName) bool {
	return slices.ContainsFunc(p.object.Spec.TargetRefs, func(ref gwv1.LocalPolicyTargetReferenceWithSectionName) bool {
		return ref.Group == "" && ref.Kind == "Service" && string(ref.Name) == service.name && value(ref.SectionName, "") == section
	})
}

func targetText(service name, section gwv1.SectionName) string {
	if section == "" {
		return "Service " + service.String()
	}
	return fmt.Sprintf("port %q of Service %s", section, service)
}

func portNamesText(s *corev1.Service) string {
	var all []string
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			all = append(all, fmt.Sprintf("%q", p.Name))
		}
	}
	if len(all) == 0 {
		return "its ports have no names; remove sectionName"
	}
	return "it has " + strings.Join(all, ", ")
}

// policyOf returns the policy that holds for a port of a Service, nil for none:
// one with the name of the port before one for all ports, then the older one.
func (t *translator) policyOf(service name, port *corev1.ServicePort) *policy {
	for _, section := range []gwv1.SectionName{gwv1.SectionName(port.Name), ""} {
		for _, p := range t.policies[service] {
			if p.names(service, section) {
				return p
			}
		}
	}
	return nil
}

// readValidation reads whom a policy trusts. Where that cannot be told nobody
// is: to send plain text, or to skip the verification, would be worse.
func (t *translator) readValidation(p *policy) {
	v := &p.object.Spec.Validation
	p.tls.Hostname = string(v.Hostname)
	for _, n := range v.SubjectAltNames {
		switch n.Type {
		case gwv1.HostnameSubjectAltNameType:
			p.tls.SubjectAltNames = append(p.tls.SubjectAltNames, config.SubjectAltName{Hostname: strings.ToLower(string(n.Hostname))})
		case gwv1.URISubjectAltNameType:
			p.tls.SubjectAltNames = append(p.tls.SubjectAltNames, config.SubjectAltName{URI: string(n.URI)})
		default:
			p.refuse(gwv1.PolicyReasonInvalid, "subjectAltNames: type %s is not supported; use Hostname or URI", n.Type)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.object.Spec.Options)) {
		p.refuse(gwv1.PolicyReasonInvalid, "options: %s is unknown; there are none, remove it", k)
	}
	if len(v.CACertificateRefs) == 0 {
		switch well := value(v.WellKnownCACertificates, ""); well {
		case gwv1.WellKnownCACertificatesSystem:
			p.tls.System = true
		default:
			p.refuse(gwv1.PolicyReasonInvalid, "wellKnownCACertificates %q is not supported; use System, or caCertificateRefs", well)
		}
	}
	for _, ref := range v.CACertificateRefs {
		t.addAuthority(p, ref)
	}
	if len(v.CACertificateRefs) > 0 && len(p.tls.Authorities) == 0 {
		p.refuse(gwv1.BackendTLSPolicyReasonNoValidCACertificate, "there is no CA certificate to verify the backend by, see ResolvedRefs")
	}
	if len(p.invalid) > 0 {
		p.tls = config.BackendTLS{Refused: fmt.Sprintf("%s is not valid, see its status", p)}
	}
}

func (p *policy) refuse(reason gwv1.PolicyConditionReason, format string, args ...any) {
	p.invalid = append(p.invalid, verdict{string(reason), fmt.Sprintf(format, args...)})
}

func (t *translator) addAuthority(p *policy, ref gwv1.LocalObjectReference) {
	if ref.Group != "" || ref.Kind != "ConfigMap" {
		p.refs = append(p.refs, verdict{string(gwv1.BackendTLSPolicyReasonInvalidKind), fmt.Sprintf(
			"caCertificateRef %q has kind %s of group %q; only ConfigMap of group \"\" is supported", ref.Name, ref.Kind, ref.Group)})
		return
	}
	a := t.authority(p.key(), name{p.object.Namespace, string(ref.Name)})
	if a.problem != "" {
		p.refs = append(p.refs, verdict{string(gwv1.BackendTLSPolicyReasonInvalidCACertificateRef), a.problem})
		return
	}
	p.warnings = append(p.warnings, a.warnings...)
	if !slices.Contains(p.tls.Authorities, a.config.Name) {
		p.tls.Authorities = append(p.tls.Authorities, a.config.Name)
	}
}

// inTheClear tells whether the gateway has the route's bytes in the clear
// anywhere: with passthrough the client speaks TLS with the backend.
func (r *route) inTheClear() bool {
	for _, p := range r.parents {
		for _, a := range p.attached {
			if !a.listener.passthrough {
				return true
			}
		}
	}
	return false
}
