// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// holdClasses keeps GatewayClasses of ours while Gateways use them, as the Gateway
// API wants it: one that is deleted then goes after the last Gateway. A class never
// changes its controller, so what is held here is let go here. Others are not
// touched.
func (l *loop) holdClasses(ctx context.Context, r *translate.Resources) error {
	const finalizer = gwv1.GatewayClassFinalizerGatewaysExist
	used := map[string]bool{}
	for _, g := range r.Gateways {
		used[string(g.Spec.GatewayClassName)] = true
	}
	var problems []error
	for _, c := range r.GatewayClasses {
		if c.Spec.ControllerName != ControllerName {
			continue
		}
		k := translate.Key{Kind: "GatewayClass", Name: c.Name}
		o := l.objects[k].(*gwv1.GatewayClass) // its status may just have been written
		changed := o.DeepCopy()
		different := false
		if !used[c.Name] {
			different = controllerutil.RemoveFinalizer(changed, finalizer)
		} else if o.DeletionTimestamp.IsZero() {
			different = controllerutil.AddFinalizer(changed, finalizer)
		}
		if !different {
			continue
		}
		err := l.client.Patch(ctx, changed, client.MergeFromWithOptions(o, client.MergeFromWithOptimisticLock{}))
		if client.IgnoreNotFound(err) != nil {
			problems = append(problems, fmt.Errorf("finalizers of %s: %w", k, err))
			continue
		}
		if err == nil {
			if now, err := slimObject(changed); err == nil {
				l.objects[k] = now
				l.statusWriter.note(k, now, true)
			}
		}
	}
	return errors.Join(problems...)
}
