// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func checkGatewayClass(c *checker, o *gwv1.GatewayClass) {
	c.pattern("spec.controllerName", string(o.Spec.ControllerName), 253, controllerPattern, "a name such as example.net/controller")
	if d := o.Spec.Description; d != nil && len(*d) > 64 {
		c.addf("spec.description", "has %d characters, more than 64", len(*d))
	}
	if p := o.Spec.ParametersRef; p != nil {
		c.group("spec.parametersRef.group", p.Group)
		c.kind("spec.parametersRef.kind", p.Kind)
		c.name("spec.parametersRef.name", p.Name)
		c.namespace("spec.parametersRef.namespace", p.Namespace)
	}
}

func checkGateway(c *checker, o *gwv1.Gateway) {
	spec := &o.Spec
	c.name("spec.gatewayClassName", string(spec.GatewayClassName))
	listeners := make([]*gwv1.Listener, len(spec.Listeners))
	for i := range spec.Listeners {
		listeners[i] = &spec.Listeners[i]
	}
	c.listeners(listeners)
	if a := spec.AllowedListeners; a != nil {
		setDefault(&a.Namespaces, gwv1.ListenerNamespaces{})
		setDefault(&a.Namespaces.From, gwv1.NamespacesFromNone)
		oneOf(c, "spec.allowedListeners.namespaces.from", *a.Namespaces.From,
			gwv1.NamespacesFromAll, gwv1.NamespacesFromSelector, gwv1.NamespacesFromSame, gwv1.NamespacesFromNone)
	}
	c.addresses(spec.Addresses)
	if in := spec.Infrastructure; in != nil {
		c.count("spec.infrastructure.labels", len(in.Labels), 0, 8)
		c.count("spec.infrastructure.annotations", len(in.Annotations), 0, 16)
		if p := in.ParametersRef; p != nil {
			c.group("spec.infrastructure.parametersRef.group", p.Group)
			c.kind("spec.infrastructure.parametersRef.kind", p.Kind)
			c.name("spec.infrastructure.parametersRef.name", p.Name)
		}
	}
	if spec.TLS != nil {
		c.gatewayTLS(spec.TLS)
	}
}

func checkListenerSet(c *checker, o *gwv1.ListenerSet) {
	p := &o.Spec.ParentRef
	setDefault(&p.Group, gwv1.GroupName)
	setDefault(&p.Kind, "Gateway")
	c.group("spec.parentRef.group", *p.Group)
	c.kind("spec.parentRef.kind", *p.Kind)
	c.name("spec.parentRef.name", string(p.Name))
	c.namespace("spec.parentRef.namespace", p.Namespace)
	listeners := make([]*gwv1.Listener, len(o.Spec.Listeners))
	for i := range o.Spec.Listeners {
		listeners[i] = (*gwv1.Listener)(&o.Spec.Listeners[i])
	}
	c.listeners(listeners)
}

func (c *checker) listeners(all []*gwv1.Listener) {
	c.count("spec.listeners", len(all), 1, 64)
	for i, l := range all {
		path := fmt.Sprintf("spec.listeners[%d]", i)
		c.listener(path, l)
		for j := range i {
			c.distinct(path, l, j, all[j])
		}
	}
}

func (c *checker) listener(path string, l *gwv1.Listener) {
	c.section(path+".name", &l.Name)
	c.port(path+".port", l.Port)
	c.pattern(path+".protocol", string(l.Protocol), 255, protocolPattern, "a protocol such as HTTP, HTTPS, TLS or TCP")
	if l.Hostname != nil {
		c.hostname(path+".hostname", string(*l.Hostname))
	}
	plain := l.Protocol == gwv1.HTTPProtocolType || l.Protocol == gwv1.TCPProtocolType || l.Protocol == gwv1.UDPProtocolType
	if l.TLS != nil {
		c.listenerTLS(path+".tls", l.TLS)
	}
	switch {
	case plain && l.TLS != nil:
		cure := "use protocol TLS"
		if l.Protocol == gwv1.HTTPProtocolType {
			cure = "use protocol HTTPS"
		}
		c.addf(path+".tls", "must not be set with protocol %s; %s", l.Protocol, cure)
	case l.Protocol == gwv1.HTTPSProtocolType && l.TLS != nil && *l.TLS.Mode != gwv1.TLSModeTerminate:
		c.addf(path+".tls.mode", "must be Terminate with protocol HTTPS; for Passthrough use protocol TLS")
	case l.Protocol == gwv1.TLSProtocolType && l.TLS == nil:
		c.addf(path+".tls", "is required with protocol TLS; set mode to Terminate, with certificateRefs, or to Passthrough")
	}
	if l.Hostname != nil && (l.Protocol == gwv1.TCPProtocolType || l.Protocol == gwv1.UDPProtocolType) {
		c.addf(path+".hostname", "must not be set with protocol %s, which knows no names; use protocol TLS", l.Protocol)
	}
	setDefault(&l.AllowedRoutes, gwv1.AllowedRoutes{})
	setDefault(&l.AllowedRoutes.Namespaces, gwv1.RouteNamespaces{})
	setDefault(&l.AllowedRoutes.Namespaces.From, gwv1.NamespacesFromSame)
	oneOf(c, path+".allowedRoutes.namespaces.from", *l.AllowedRoutes.Namespaces.From,
		gwv1.NamespacesFromAll, gwv1.NamespacesFromSelector, gwv1.NamespacesFromSame)
	c.count(path+".allowedRoutes.kinds", len(l.AllowedRoutes.Kinds), 0, 8)
	for i := range l.AllowedRoutes.Kinds {
		k := &l.AllowedRoutes.Kinds[i]
		setDefault(&k.Group, gwv1.GroupName)
		c.group(fmt.Sprintf("%s.allowedRoutes.kinds[%d].group", path, i), *k.Group)
		c.kind(fmt.Sprintf("%s.allowedRoutes.kinds[%d].kind", path, i), k.Kind)
	}
}

func (c *checker) listenerTLS(path string, t *gwv1.ListenerTLSConfig) {
	setDefault(&t.Mode, gwv1.TLSModeTerminate)
	oneOf(c, path+".mode", *t.Mode, gwv1.TLSModeTerminate, gwv1.TLSModePassthrough)
	c.count(path+".certificateRefs", len(t.CertificateRefs), 0, 64)
	for i := range t.CertificateRefs {
		c.secret(fmt.Sprintf("%s.certificateRefs[%d]", path, i), &t.CertificateRefs[i])
	}
	c.count(path+".options", len(t.Options), 0, 16)
	for _, k := range slices.Sorted(maps.Keys(t.Options)) {
		c.pattern(path+".options", string(k), 253, optionPattern, "the name of an option")
		if n := len(t.Options[k]); n > 4096 {
			c.addf(path+".options", "%s has %d characters, more than 4096", k, n)
		}
	}
	if *t.Mode == gwv1.TLSModeTerminate && len(t.CertificateRefs) == 0 && len(t.Options) == 0 {
		c.addf(path+".certificateRefs", "is required with mode Terminate; name the Secret with certificate and key")
	}
}

func (c *checker) secret(path string, s *gwv1.SecretObjectReference) {
	setDefault(&s.Group, "")
	setDefault(&s.Kind, "Secret")
	c.group(path+".group", *s.Group)
	c.kind(path+".kind", *s.Kind)
	c.name(path+".name", string(s.Name))
	c.namespace(path+".namespace", s.Namespace)
}

func (c *checker) distinct(path string, l *gwv1.Listener, j int, o *gwv1.Listener) {
	if o.Name == l.Name {
		c.addf(path+".name", "%q is also the name of listeners[%d]", l.Name, j)
	}
	if o.Port == l.Port && o.Protocol == l.Protocol && text(o.Hostname) == text(l.Hostname) {
		c.addf(path, "has port, protocol and hostname of listeners[%d]; change one of them", j)
	}
}

func (c *checker) addresses(all []gwv1.GatewaySpecAddress) {
	c.count("spec.addresses", len(all), 0, 16)
	for i := range all {
		a := &all[i]
		path := fmt.Sprintf("spec.addresses[%d]", i)
		setDefault(&a.Type, gwv1.IPAddressType)
		c.pattern(path+".type", string(*a.Type), 253, addressPattern, "IPAddress, Hostname, NamedAddress or example.com/type")
		switch {
		case len(a.Value) > 253:
			c.addf(path+".value", "has %d characters, more than 253", len(a.Value))
		case *a.Type == gwv1.IPAddressType && a.Value != "" && !isIP(a.Value):
			c.addf(path+".value", "%q is not an IP address", a.Value)
		case *a.Type == gwv1.HostnameAddressType && a.Value != "":
			c.hostname(path+".value", a.Value)
		}
		for j := range i {
			if o := &all[j]; a.Value != "" && *o.Type == *a.Type && o.Value == a.Value &&
				(*a.Type == gwv1.IPAddressType || *a.Type == gwv1.HostnameAddressType) {
				c.addf(path, "is the same as addresses[%d]", j)
			}
		}
	}
}

func (c *checker) gatewayTLS(t *gwv1.GatewayTLSConfig) {
	if t.Backend != nil && t.Backend.ClientCertificateRef != nil {
		c.secret("spec.tls.backend.clientCertificateRef", t.Backend.ClientCertificateRef)
	}
	if t.Frontend == nil {
		return
	}
	c.validation("spec.tls.frontend.default.validation", t.Frontend.Default.Validation)
	c.count("spec.tls.frontend.perPort", len(t.Frontend.PerPort), 0, 64)
	for i := range t.Frontend.PerPort {
		p := &t.Frontend.PerPort[i]
		path := fmt.Sprintf("spec.tls.frontend.perPort[%d]", i)
		c.port(path+".port", p.Port)
		c.validation(path+".tls.validation", p.TLS.Validation)
		for j := range i {
			if t.Frontend.PerPort[j].Port == p.Port {
				c.addf(path+".port", "%d is also the port of perPort[%d]", p.Port, j)
			}
		}
	}
}

func (c *checker) validation(path string, v *gwv1.FrontendTLSValidation) {
	if v == nil {
		return
	}
	if v.Mode == "" {
		v.Mode = gwv1.AllowValidOnly
	}
	oneOf(c, path+".mode", v.Mode, gwv1.AllowValidOnly, gwv1.AllowInsecureFallback)
	c.count(path+".caCertificateRefs", len(v.CACertificateRefs), 1, 16)
	for i, r := range v.CACertificateRefs {
		at := fmt.Sprintf("%s.caCertificateRefs[%d]", path, i)
		c.group(at+".group", r.Group)
		c.kind(at+".kind", r.Kind)
		c.name(at+".name", string(r.Name))
		c.namespace(at+".namespace", r.Namespace)
	}
}

func checkReferenceGrant(c *checker, o *gwv1.ReferenceGrant) {
	c.count("spec.from", len(o.Spec.From), 1, 16)
	for i, f := range o.Spec.From {
		path := fmt.Sprintf("spec.from[%d]", i)
		c.group(path+".group", f.Group)
		c.kind(path+".kind", f.Kind)
		c.namespace(path+".namespace", &f.Namespace)
	}
	c.count("spec.to", len(o.Spec.To), 1, 16)
	for i, t := range o.Spec.To {
		path := fmt.Sprintf("spec.to[%d]", i)
		c.group(path+".group", t.Group)
		c.kind(path+".kind", t.Kind)
		if t.Name != nil {
			c.name(path+".name", string(*t.Name))
		}
	}
}
