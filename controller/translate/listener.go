// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
)

// listener is a listener of a Gateway of ours, or of a ListenerSet of it, on
// its way to a status.
type listener struct {
	gateway     *gateway
	set         *listenerSet // nil: the Gateway's own
	spec        *gwv1.Listener
	hostname    string
	passthrough bool
	kinds       []string // route kinds that may attach

	accepted verdict
	conflict verdict // with listeners of the same Gateway
	lost     bool    // the conflict is with one that comes first
	overlap  verdict // of TLS settings, harmless to serve
	refs     []verdict
	warnings []string

	tls          *config.ListenerTLS // nil without TLS
	certificates []*certificate

	l4       map[string]*route // by hostname
	http     map[string][]rule // by hostname
	attached map[*route]bool
}

func (l *listener) String() string { return fmt.Sprintf("listener %q of %s", l.spec.Name, l.parent()) }

// key is the name in the snapshot.
func (l *listener) key() string {
	if l.set != nil {
		return fmt.Sprintf("%s/%s/%s", l.gateway.name, l.set.name, l.spec.Name)
	}
	return l.gateway.name.String() + "/" + string(l.spec.Name)
}

// parent is the object that the listener is written in.
func (l *listener) parent() Key {
	if l.set != nil {
		return l.set.key()
	}
	return l.gateway.key()
}

func (l *listener) generation() int64 {
	if l.set != nil {
		return l.set.object.Generation
	}
	return l.gateway.object.Generation
}

// encrypted tells whether clients speak TLS.
func (l *listener) encrypted() bool {
	return l.spec.Protocol == gwv1.HTTPSProtocolType || l.spec.Protocol == gwv1.TLSProtocolType
}

// unsupported tells that Sluice does not speak the protocol.
func (l *listener) unsupported() bool {
	return l.accepted.reason == string(gwv1.ListenerReasonUnsupportedProtocol)
}

// acceptance is why the listener is not accepted.
func (l *listener) acceptance() verdict {
	if !l.conflict.ok() {
		return l.conflict
	}
	return l.accepted
}

// keepsName tells whether host name and port are the listener's even while it
// cannot be served.
func (l *listener) keepsName() bool {
	return !l.unsupported() && !l.lost && l.conflict.reason != string(gwv1.ListenerReasonProtocolConflict)
}

// served tells whether the listener carries connections.
func (l *listener) served() bool { return l.gateway.served() && l.valid().ok() }

// valid is why there is nothing to serve, in words for Programmed.
func (l *listener) valid() verdict {
	const invalid = string(gwv1.ListenerReasonInvalid)
	switch {
	case !l.conflict.ok() && l.set != nil:
		return verdict{l.conflict.reason, "the listener is in conflict"}
	case !l.acceptance().ok():
		return verdict{invalid, "the listener is not accepted"}
	case len(l.kinds) == 0:
		return verdict{invalid, "no kind of route may attach, see ResolvedRefs"}
	case l.encrypted() && !l.passthrough && len(l.certificates) == 0:
		return verdict{invalid, "there is no certificate to serve, see ResolvedRefs"}
	}
	return verdict{}
}

func (t *translator) readListener(g *gateway, set *listenerSet, spec *gwv1.Listener) *listener {
	l := &listener{gateway: g, set: set, spec: spec, hostname: strings.ToLower(string(value(spec.Hostname, ""))),
		l4: map[string]*route{}, http: map[string][]rule{}, attached: map[*route]bool{}}
	l.passthrough = spec.Protocol == gwv1.TLSProtocolType && spec.TLS != nil &&
		value(spec.TLS.Mode, gwv1.TLSModeTerminate) == gwv1.TLSModePassthrough
	supported := supportedKinds(spec.Protocol, l.passthrough)
	if supported == nil {
		l.accepted = verdict{string(gwv1.ListenerReasonUnsupportedProtocol), fmt.Sprintf(
			"protocol %s is not supported; use HTTP, HTTPS, TLS, TCP or UDP", spec.Protocol)}
		return l
	}
	l.readKinds(supported)
	l.readAllowedNamespaces()
	if l.encrypted() {
		l.readTLS()
		t.validateClients(l)
	}
	return l
}

// supportedKinds are the route kinds that a protocol takes; nil means that the
// protocol is not supported. TCPRoute on HTTPS and on TLS with termination is
// our extension.
func supportedKinds(p gwv1.ProtocolType, passthrough bool) []string {
	switch {
	case p == gwv1.HTTPProtocolType:
		return []string{"HTTPRoute"}
	case p == gwv1.HTTPSProtocolType:
		return []string{"HTTPRoute", "TCPRoute"}
	case p == gwv1.TLSProtocolType && passthrough:
		return []string{"TLSRoute"}
	case p == gwv1.TLSProtocolType:
		return []string{"TLSRoute", "TCPRoute"}
	case p == gwv1.TCPProtocolType:
		return []string{"TCPRoute"}
	case p == gwv1.UDPProtocolType:
		return []string{"UDPRoute"}
	}
	return nil
}

func (l *listener) readKinds(supported []string) {
	l.kinds = supported
	if l.spec.AllowedRoutes == nil || len(l.spec.AllowedRoutes.Kinds) == 0 {
		return
	}
	l.kinds = nil
	var bad []string
	for _, k := range l.spec.AllowedRoutes.Kinds {
		kind := string(k.Kind)
		switch {
		case value(k.Group, gwv1.GroupName) != gwv1.GroupName:
			bad = append(bad, string(*k.Group)+"/"+kind)
		case !slices.Contains(supported, kind):
			bad = append(bad, kind)
		case !slices.Contains(l.kinds, kind):
			l.kinds = append(l.kinds, kind)
		}
	}
	if len(bad) > 0 {
		mode := ""
		if l.passthrough {
			mode = " with tls.mode Passthrough"
		}
		l.refs = append(l.refs, verdict{string(gwv1.ListenerReasonInvalidRouteKinds), fmt.Sprintf(
			"allowedRoutes.kinds has %s, but a listener with protocol %s%s takes %s only",
			strings.Join(bad, ", "), l.spec.Protocol, mode, strings.Join(supported, " and "))})
	}
}

func (l *listener) readAllowedNamespaces() {
	if _, err := l.namespaceSelector(); err != nil {
		l.accepted = verdict{string(gwv1.ListenerReasonUnsupportedValue), fmt.Sprintf(
			"allowedRoutes.namespaces.selector: %s", err)}
	}
}

// namespaceSelector returns the selector for from: Selector, else nil.
func (l *listener) namespaceSelector() (labels.Selector, error) {
	if l.from() != gwv1.NamespacesFromSelector {
		return nil, nil
	}
	s, err := metav1.LabelSelectorAsSelector(l.spec.AllowedRoutes.Namespaces.Selector)
	if err != nil {
		return labels.Nothing(), fmt.Errorf("%s", err)
	}
	return s, nil
}

func (l *listener) from() gwv1.FromNamespaces {
	if l.spec.AllowedRoutes == nil || l.spec.AllowedRoutes.Namespaces == nil {
		return gwv1.NamespacesFromSame
	}
	return value(l.spec.AllowedRoutes.Namespaces.From, gwv1.NamespacesFromSame)
}

// refuseNamespace says why a listener takes no routes of a namespace.
func (t *translator) refuseNamespace(l *listener, from Key) refusal {
	namespace := from.Namespace
	switch allowed := l.from(); allowed {
	case gwv1.NamespacesFromAll:
		return refusal{}
	case gwv1.NamespacesFromSame:
		if namespace == l.parent().Namespace {
			return refusal{}
		}
		return refusal{listener: l, why: fmt.Sprintf("takes routes from namespace %q only", l.parent().Namespace),
			cure: fmt.Sprintf("allow namespace %q in its allowedRoutes.namespaces", namespace)}
	case gwv1.NamespacesFromSelector:
		s, err := l.namespaceSelector()
		switch {
		case err != nil:
			return refusal{listener: l, why: "has a selector in allowedRoutes.namespaces that is not valid", cure: "mend it"}
		case s.Matches(t.namespaceLabels(namespace)):
			return refusal{}
		case t.namespaces[namespace] == nil && t.assume(Reference{from, Key{"Namespace", "", namespace}}):
			return refusal{}
		}
		return refusal{listener: l, why: fmt.Sprintf("takes routes from namespaces with labels %q only", s),
			cure: fmt.Sprintf("label namespace %q so, or change the selector", namespace)}
	default:
		return refusal{listener: l, why: fmt.Sprintf("takes no routes (allowedRoutes.namespaces.from: %s)", allowed), cure: "change it"}
	}
}

// namespaceLabels are those of the Namespace object and the one that every
// namespace has, which is all there is without an object.
func (t *translator) namespaceLabels(namespace string) labels.Set {
	set := labels.Set{}
	if n := t.namespaces[namespace]; n != nil {
		maps.Copy(set, n.Labels)
	}
	set["kubernetes.io/metadata.name"] = namespace
	return set
}

// The TLS options that a listener may have (spec.listeners.tls.options).
const (
	optionALPN       = "sluice.dev/alpn"
	optionMinVersion = "sluice.dev/min-tls-version"
)

func (l *listener) readTLS() {
	l.tls = &config.ListenerTLS{Passthrough: l.passthrough}
	https := l.spec.Protocol == gwv1.HTTPSProtocolType
	if l.spec.TLS == nil {
		return
	}
	var bad []string
	for _, k := range slices.Sorted(maps.Keys(l.spec.TLS.Options)) {
		v := string(l.spec.TLS.Options[k])
		switch {
		case l.passthrough && (k == optionALPN || k == optionMinVersion):
			bad = append(bad, fmt.Sprintf("%s cannot be honored with mode Passthrough, where the backend speaks TLS", k))
		case k == optionALPN:
			l.tls.ALPN = nil
			for p := range strings.SplitSeq(v, ",") {
				p = strings.TrimSpace(p)
				switch {
				case p == "" || len(p) > 255:
					bad = append(bad, fmt.Sprintf("%s: %q is not a comma-separated list of protocols", k, v))
				case https && p != "h2" && p != "http/1.1":
					bad = append(bad, fmt.Sprintf("%s: %q is not spoken with protocol HTTPS, only h2 and http/1.1 are; use protocol TLS", k, p))
				}
				l.tls.ALPN = append(l.tls.ALPN, p)
			}
		case k == optionMinVersion && v == "1.2":
			l.tls.MinVersion = tls.VersionTLS12
		case k == optionMinVersion && v == "1.3":
			l.tls.MinVersion = tls.VersionTLS13
		case k == optionMinVersion:
			bad = append(bad, fmt.Sprintf("%s: %q is neither \"1.2\" nor \"1.3\"", k, v))
		default:
			bad = append(bad, fmt.Sprintf("%s is unknown; known are %s and %s", k, optionALPN, optionMinVersion))
		}
	}
	if len(bad) > 0 {
		l.accepted = verdict{string(gwv1.ListenerReasonUnsupportedValue), "tls.options: " + strings.Join(bad, "; ")}
	}
}

// conditionsOf returns the conditions that a listener has so far.
func (l *listener) conditionsOf(had []gwv1.ListenerStatus) []metav1.Condition {
	if i := slices.IndexFunc(had, func(h gwv1.ListenerStatus) bool { return h.Name == l.spec.Name }); i >= 0 {
		return had[i].Conditions
	}
	return nil
}

func (t *translator) listenerStatus(l *listener, had []gwv1.ListenerStatus, s snapshotState) gwv1.ListenerStatus {
	conditions := l.conditionsOf(had)
	refs := first(l.refs)
	resolved := "all references are resolved"
	if len(l.warnings) > 0 {
		resolved = strings.Join(l.warnings, "; ")
	}
	want := []condition{
		l.acceptance().is("Accepted", "Accepted", "the listener is valid"),
		refs.is("ResolvedRefs", "ResolvedRefs", resolved),
		t.listenerProgrammed(l, conditions, s),
	}
	if !l.conflict.ok() {
		want = append(want, condition{"Conflicted", "True", l.conflict.reason, l.conflict.message})
	}
	if !l.overlap.ok() {
		want = append(want, condition{"OverlappingTLSConfig", "True", l.overlap.reason, l.overlap.message})
	}
	out := gwv1.ListenerStatus{Name: l.spec.Name, SupportedKinds: []gwv1.RouteGroupKind{}, AttachedRoutes: int32(len(l.attached)),
		Conditions: t.merge(conditions, l.generation(),
			[]string{"Accepted", "ResolvedRefs", "Programmed", "Conflicted", "OverlappingTLSConfig"}, want)}
	for _, k := range l.kinds {
		group := gwv1.Group(gwv1.GroupName)
		out.SupportedKinds = append(out.SupportedKinds, gwv1.RouteGroupKind{Group: &group, Kind: gwv1.Kind(k)})
	}
	return out
}

// refusing is the listener in the snapshot while it is not served.
func (l *listener) refusing() config.Listener {
	why := first(append([]verdict{l.acceptance()}, l.refs...))
	out := config.Listener{Name: l.key(), Addresses: slices.Clone(l.gateway.addresses), Port: uint16(l.spec.Port),
		Protocol: config.Protocol(l.spec.Protocol), Hostname: l.hostname, NotServed: why.message}
	if l.encrypted() {
		out.TLS = &config.ListenerTLS{Passthrough: l.passthrough}
	}
	return out
}

// snapshotListener is the listener as it is served.
func (l *listener) snapshotListener() config.Listener {
	out := config.Listener{Name: l.key(), Addresses: slices.Clone(l.gateway.addresses), Port: uint16(l.spec.Port),
		Protocol: config.Protocol(l.spec.Protocol), Hostname: l.hostname, TLS: l.tls}
	for _, c := range l.certificates {
		out.TLS.Certificates = append(out.TLS.Certificates, c.config.Name)
	}
	for h, r := range l.l4 {
		out.L4 = append(out.L4, config.HostRoute{Hostname: h, Route: r.String()})
	}
	for h, rules := range l.http {
		slices.SortStableFunc(rules, compareRules)
		host := config.HTTPHost{Hostname: h}
		for _, r := range rules {
			host.Rules = append(host.Rules, r.HTTPRule)
		}
		out.HTTP = append(out.HTTP, host)
	}
	slices.SortFunc(out.L4, func(a, b config.HostRoute) int { return cmp.Compare(a.Hostname, b.Hostname) })
	return out
}
