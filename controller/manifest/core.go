// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// checkSecret moves stringData into data, where it wins, as an API server does.
func checkSecret(_ *checker, o *corev1.Secret) {
	for k, v := range o.StringData {
		if o.Data == nil {
			o.Data = map[string][]byte{}
		}
		o.Data[k] = []byte(v)
	}
	o.StringData = nil
	if o.Type == "" {
		o.Type = corev1.SecretTypeOpaque
	}
}

func checkService(c *checker, o *corev1.Service) {
	if o.Spec.Type == "" {
		o.Spec.Type = corev1.ServiceTypeClusterIP
	}
	oneOf(c, "spec.type", o.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		c.pattern("spec.externalName", o.Spec.ExternalName, 253, externalNamePattern, "a lower-case host name")
	}
	for i := range o.Spec.Ports {
		p := &o.Spec.Ports[i]
		path := fmt.Sprintf("spec.ports[%d]", i)
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		oneOf(c, path+".protocol", p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		c.port(path+".port", p.Port)
		if len(o.Spec.Ports) > 1 && p.Name == "" {
			c.addf(path+".name", "is required with several ports")
		}
		for j, other := range o.Spec.Ports[:i] {
			if other.Name == p.Name && p.Name != "" {
				c.addf(path+".name", "%q is also the name of ports[%d]", p.Name, j)
			}
			if other.Port == p.Port && other.Protocol == p.Protocol {
				c.addf(path+".port", "%d is also the port of ports[%d]", p.Port, j)
			}
		}
	}
}

// checkEndpointSlice allows loopback addresses, which an API server does not:
// on one machine that is where backends are.
func checkEndpointSlice(c *checker, o *discoveryv1.EndpointSlice) {
	oneOf(c, "addressType", o.AddressType, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	if o.Labels[discoveryv1.LabelServiceName] == "" {
		c.addf("metadata.labels", "%s is required: it says which Service the endpoints belong to", discoveryv1.LabelServiceName)
	}
	c.count("endpoints", len(o.Endpoints), 0, 1000)
	for i, e := range o.Endpoints {
		path := fmt.Sprintf("endpoints[%d].addresses", i)
		c.count(path, len(e.Addresses), 1, 100)
		for j, a := range e.Addresses {
			c.address(fmt.Sprintf("%s[%d]", path, j), o.AddressType, a)
		}
	}
	c.count("ports", len(o.Ports), 0, 100)
	for i := range o.Ports {
		p := &o.Ports[i]
		path := fmt.Sprintf("ports[%d]", i)
		setDefault(&p.Name, "")
		setDefault(&p.Protocol, corev1.ProtocolTCP)
		oneOf(c, path+".protocol", *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if p.Port != nil {
			c.port(path+".port", *p.Port)
		}
		for j, other := range o.Ports[:i] {
			if *other.Name == *p.Name {
				c.addf(path+".name", "%q is also the name of ports[%d]", *p.Name, j)
			}
		}
	}
}

func (c *checker) address(path string, typ discoveryv1.AddressType, v string) {
	ip, err := netip.ParseAddr(v)
	switch {
	case typ == discoveryv1.AddressTypeFQDN:
		c.pattern(path, v, 253, externalNamePattern, "a lower-case host name")
	case err != nil || ip.Zone() != "":
		c.addf(path, "%q is not an IP address; a name takes addressType FQDN", v)
	case (typ == discoveryv1.AddressTypeIPv4) != ip.Is4() && (typ == discoveryv1.AddressTypeIPv4 || typ == discoveryv1.AddressTypeIPv6):
		c.addf(path, "%s is not of addressType %s", v, typ)
	case ip.IsUnspecified() || ip.IsMulticast():
		c.addf(path, "%s is not the address of an endpoint", v)
	}
}
