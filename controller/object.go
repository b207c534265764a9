// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"reflect"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// withStatus returns the status of an object, the one that it should have, and
// a copy of the object with that; nothing when the two do not fit.
func withStatus(o client.Object, s *translate.Status) (have, want any, changed client.Object) {
	switch o := o.(type) {
	case *gwv1.GatewayClass:
		if s.GatewayClass != nil {
			c := o.DeepCopy()
			c.Status = *s.GatewayClass.DeepCopy()
			return &o.Status, &c.Status, c
		}
	case *gwv1.Gateway:
		if s.Gateway != nil {
			c := o.DeepCopy()
			c.Status = *s.Gateway.DeepCopy()
			return &o.Status, &c.Status, c
		}
	case *gwv1.ListenerSet:
		if s.ListenerSet != nil {
			c := o.DeepCopy()
			c.Status = *s.ListenerSet.DeepCopy()
			return &o.Status, &c.Status, c
		}
	case *gwv1.BackendTLSPolicy:
		if s.Policy != nil {
			c := o.DeepCopy()
			c.Status = *s.Policy.DeepCopy()
			return &o.Status, &c.Status, c
		}
	}
	if from := routeStatus(o); from != nil && s.Route != nil {
		c := o.DeepCopyObject().(client.Object)
		to := routeStatus(c)
		*to = *s.Route.DeepCopy()
		return from, to, c
	}
	return nil, nil, nil
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
