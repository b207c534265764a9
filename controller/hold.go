// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// holdClasses keeps GatewayClasses of ours while Gateways use them, as the Gateway
// API wants it: one that is deleted then goes after the last Gateway. A class never
// changes its controller, so what is held here is let go here. Others are not
// touched.
func (l *loop) holdClasses(ctx context.Context, r *translate.Resources) error {
	used := map[gwv1.ObjectName]bool{}
	for _, g := range r.Gateways {
		used[g.Spec.GatewayClassName] = true
	}
	var problems []error
	for _, c := range r.GatewayClasses {
		k := translate.Key{Kind: "GatewayClass", Name: c.Name}
		if c.Spec.ControllerName != ControllerName {
			continue
		}
		o := l.objects[k].(*gwv1.GatewayClass) // its status may just have been written
		changed := o.DeepCopy()
		switch held := slices.Contains(o.Finalizers, gwv1.GatewayClassFinalizerGatewaysExist); {
		case used[gwv1.ObjectName(c.Name)] && !held && o.DeletionTimestamp.IsZero():
			changed.Finalizers = append(changed.Finalizers, gwv1.GatewayClassFinalizerGatewaysExist)
		case !used[gwv1.ObjectName(c.Name)] && held:
			changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == gwv1.GatewayClassFinalizerGatewaysExist })
		default:
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
