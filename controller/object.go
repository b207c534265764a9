// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"reflect"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// statusOf returns the status of an object and the one that it should have;
// nothing when the two do not fit. They are not to be changed.
func statusOf(o client.Object, s *translate.Status) (have, want any) {
	switch o := o.(type) {
	case *gwv1.GatewayClass:
		if s.GatewayClass != nil {
			return &o.Status, s.GatewayClass
		}
	case *gwv1.Gateway:
		if s.Gateway != nil {
			return &o.Status, s.Gateway
		}
	case *gwv1.ListenerSet:
		if s.ListenerSet != nil {
			return &o.Status, s.ListenerSet
		}
	case *gwv1.BackendTLSPolicy:
		if s.Policy != nil {
			return &o.Status, s.Policy
		}
	}
	if have := routeStatus(o); have != nil && s.Route != nil {
		return have, s.Route
	}
	return nil, nil
}

// withStatus returns a copy of an object with the status that it should have;
// the two must fit (statusOf).
func withStatus(o client.Object, s *translate.Status) client.Object {
	c := o.DeepCopyObject().(client.Object)
	switch c := c.(type) {
	case *gwv1.GatewayClass:
		c.Status = *s.GatewayClass.DeepCopy()
	case *gwv1.Gateway:
		c.Status = *s.Gateway.DeepCopy()
	case *gwv1.ListenerSet:
		c.Status = *s.ListenerSet.DeepCopy()
	case *gwv1.BackendTLSPolicy:
		c.Status = *s.Policy.DeepCopy()
	default:
		*routeStatus(c) = *s.Route.DeepCopy()
	}
	return c
}

// routeStatus is the status of a route, nil of anything else.
func routeStatus(o client.Object) *gwv1.RouteStatus {
	switch o := o.(type) {
	case *gwv1.TCPRoute:
		return &o.Status.RouteStatus
	case *gwv1.TLSRoute:
		return &o.Status.RouteStatus
	case *gwv1.HTTPRoute:
		return &o.Status.RouteStatus
	case *gwv1.GRPCRoute:
		return &o.Status.RouteStatus
	case *gwv1.UDPRoute:
		return &o.Status.RouteStatus
	}
	return nil
}

// updateStatus writes the status of an object in the version that the API
// server has. It returns the object as it is then.
func updateStatus(ctx context.Context, c client.Client, version, o client.Object) (client.Object, error) {
	sent, err := inVersion(o, version)
	if err != nil {
		return nil, err
	}
	if err := c.Status().Update(ctx, sent); err != nil {
		return nil, err
	}
	return slimObject(sent)
}

// readAgain asks the API server for an object.
func readAgain(ctx context.Context, r client.Reader, version, o client.Object) (client.Object, error) {
	now := version.DeepCopyObject().(client.Object)
	if err := r.Get(ctx, client.ObjectKeyFromObject(o), now); err != nil {
		return nil, err
	}
	return slimObject(now)
}

// inVersion returns o, or the same in an older version.
func inVersion(o, version client.Object) (client.Object, error) {
	if reflect.TypeOf(o) == reflect.TypeOf(version) {
		return o, nil
	}
	return convert(o, version.DeepCopyObject().(client.Object))
}

// slimObject is slim for a single object.
func slimObject(o client.Object) (client.Object, error) {
	kept, err := slim(o)
	if err != nil {
		return nil, err
	}
	return kept.(client.Object), nil
}
