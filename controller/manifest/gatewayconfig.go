// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

func checkGatewayConfig(c *checker, o *v1alpha1.GatewayConfig) {
	a := &o.Spec.Addresses
	if a.Mode == "" {
		a.Mode = v1alpha1.AddressModeNode
	}
	oneOf(c, "spec.addresses.mode", a.Mode, v1alpha1.AddressModeNode, v1alpha1.AddressModePool, v1alpha1.AddressModeLoadBalancer)
	c.count("spec.addresses.pools", len(a.Pools), 0, 64)
	for i, p := range a.Pools {
		if path := fmt.Sprintf("spec.addresses.pools[%d]", i); !isRange(string(p)) {
			c.addf(path, "%q is neither a CIDR such as 192.0.2.0/24 nor a range such as 192.0.2.10-192.0.2.20", p)
		}
		for j := range i {
			if a.Pools[j] == p {
				c.addf(fmt.Sprintf("spec.addresses.pools[%d]", i), "is the same as pools[%d]", j)
			}
		}
	}
	if a.Mode == v1alpha1.AddressModePool && len(a.Pools) == 0 {
		c.addf("spec.addresses.pools", "is required with mode Pool")
	}
	if l := a.LoadBalancer; l != nil {
		if l.Class != nil {
			c.name("spec.addresses.loadBalancer.class", *l.Class)
		}
		c.count("spec.addresses.loadBalancer.annotations", len(l.Annotations), 0, 64)
	}
	if a.LoadBalancer != nil && a.Mode != v1alpha1.AddressModeLoadBalancer {
		c.addf("spec.addresses.loadBalancer", "can only be set with mode LoadBalancer")
	}
}

// isRange tells whether s is a CIDR, or two addresses of a family with "-"
// between them. IPv4 within IPv6 is neither (k8s.io/apiserver cel/library).
func isRange(s string) bool {
	if from, to, ok := strings.Cut(s, "-"); ok {
		a, err1 := netip.ParseAddr(from)
		b, err2 := netip.ParseAddr(to)
		return err1 == nil && err2 == nil && a.Zone()+b.Zone() == "" && a.BitLen() == b.BitLen() && !a.Is4In6() && !b.Is4In6()
	}
	p, err := netip.ParsePrefix(s)
	return err == nil && !p.Addr().Is4In6()
}
