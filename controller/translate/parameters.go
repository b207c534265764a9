// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

// parameters are what a GatewayConfig says, ready to use; nil where a class
// refers to none.
type parameters struct {
	name
	mode         v1alpha1.AddressMode
	pool         pool
	loadBalancer v1alpha1.LoadBalancer
}

// readParameters reads what a class refers to.
func (t *translator) readParameters(of Key, ref *gwv1.ParametersReference) (*parameters, verdict) {
	refuse := func(format string, args ...any) (*parameters, verdict) {
		return nil, verdict{string(gwv1.GatewayClassReasonInvalidParameters), "spec.parametersRef: " + fmt.Sprintf(format, args...)}
	}
	switch {
	case ref == nil:
		return nil, verdict{}
	case ref.Group != v1alpha1.GroupName || ref.Kind != "GatewayConfig":
		return refuse("%s of group %q is not supported; use GatewayConfig of group %s", ref.Kind, ref.Group, v1alpha1.GroupName)
	case ref.Namespace == nil:
		return refuse("namespace is required; write that of GatewayConfig %q", ref.Name)
	}
	p := &parameters{name: name{string(*ref.Namespace), ref.Name}}
	c := t.configs[p.name]
	if c == nil && t.assume(Reference{of, Key{"GatewayConfig", p.namespace, p.name.name}}) {
		p.mode = v1alpha1.AddressModeNode
		return p, verdict{}
	} else if c == nil {
		return refuse("%s", t.in.absent(Key{"GatewayConfig", p.namespace, p.name.name}, "create it, or correct the name there"))
	}
	spec := c.Spec.Addresses
	p.mode = spec.Mode
	if p.mode == "" {
		p.mode = v1alpha1.AddressModeNode
	}
	for i, s := range spec.Pools {
		r, err := parseRange(s)
		if err != nil {
			return refuse("GatewayConfig %s: spec.addresses.pools[%d]: %s", p.name, i, err)
		}
		p.pool = append(p.pool, r)
	}
	if spec.LoadBalancer != nil {
		p.loadBalancer = *spec.LoadBalancer
	}
	switch p.mode {
	case v1alpha1.AddressModeNode:
	case v1alpha1.AddressModePool:
		if len(p.pool) == 0 {
			return refuse("GatewayConfig %s: spec.addresses.pools: mode Pool needs one", p.name)
		}
	case v1alpha1.AddressModeLoadBalancer:
		if t.alone() {
			p.mode = v1alpha1.AddressModeNode // nothing here makes Services
		}
	default:
		return refuse("GatewayConfig %s: spec.addresses.mode %s is not supported; use Node, Pool or LoadBalancer", p.name, p.mode)
	}
	return p, verdict{}
}
