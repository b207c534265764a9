// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// released are the statuses of Gateways and ListenerSets that are ours no more and
// still say that we serve them, since nobody else may: the class is gone, or is
// another controller's that does not run. They become what the API server gives to
// new ones. Their status does not name its author as that of a route does, so we
// take back what is in our words alone: what another controller has written since
// stays, and once taken back it is not ours any more.
func (t *translator) released() []Status {
	if t.alone() || t.Partial {
		return nil // no status here has another author
	}
	var out []Status
	for _, o := range t.in.Gateways {
		if t.gatewayIndex[nameOf(o)] != nil || !saysServed(o.Status.Conditions) {
			continue
		}
		class := string(o.Spec.GatewayClassName)
		why, addresses := fmt.Sprintf("GatewayClass %q does not exist", class), o.Status.Addresses // it may come back
		if k := t.classes[class]; k != nil {
			why, addresses = fmt.Sprintf("GatewayClass %q is of %s", class, k.object.Spec.ControllerName), nil
		}
		out = append(out, Status{Kind: "Gateway", Namespace: o.Namespace, Name: o.Name, Generation: o.Generation, Gateway: &gwv1.GatewayStatus{
			Addresses:  addresses,
			Conditions: t.release(o.Status.Conditions, o.Generation, why, "ResolvedRefs", string(gwv1.GatewayConditionInsecureFrontendValidationMode))}})
	}
	for _, o := range t.in.ListenerSets {
		if t.setIndex[nameOf(o)] == nil && saysServed(o.Status.Conditions) {
			out = append(out, Status{Kind: "ListenerSet", Namespace: o.Namespace, Name: o.Name, Generation: o.Generation, ListenerSet: &gwv1.ListenerSetStatus{
				Conditions: t.release(o.Status.Conditions, o.Generation, "its parent is no Gateway of Sluice")}})
		}
	}
	return out
}

// release takes back our conditions among those of others.
func (t *translator) release(had []metav1.Condition, generation int64, why string, more ...string) []metav1.Condition {
	const accepted, programmed = string(gwv1.GatewayConditionAccepted), string(gwv1.GatewayConditionProgrammed)
	message := fmt.Sprintf("%s serves it no more: %s; waiting for a controller", t.ControllerName, why)
	return t.merge(had, generation, append(more, accepted, programmed), []condition{
		{accepted, metav1.ConditionUnknown, string(gwv1.GatewayReasonPending), message},
		{programmed, metav1.ConditionUnknown, string(gwv1.GatewayReasonPending), message},
	})
}

// What a condition Programmed that is True says (listenersProgrammed).
const (
	allServed  = "all listeners are served"
	someServed = "listeners served: "
)

// saysServed tells whether a status says in our words that something is served.
func saysServed(conditions []metav1.Condition) bool {
	return slices.ContainsFunc(conditions, func(c metav1.Condition) bool {
		return c.Type == string(gwv1.GatewayConditionProgrammed) && c.Status == metav1.ConditionTrue &&
			(c.Message == allServed || strings.HasPrefix(c.Message, someServed))
	})
}
