// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
)

// crowd is so many listeners on one port, each with a host name of its own: in a
// Gateway each, or in ListenerSets of one Gateway.
func crowd(n int, inSets bool) translate.Resources {
	const most = 64 // listeners of one object
	all := gwv1.NamespacesFromAll
	r := translate.Resources{GatewayClasses: []*gwv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "sluice"}, Spec: gwv1.GatewayClassSpec{ControllerName: controllerName}}}}
	gateway := func(name string, listeners ...gwv1.Listener) {
		r.Gateways = append(r.Gateways, &gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: gwv1.GatewaySpec{
			GatewayClassName: "sluice", Listeners: listeners, AllowedListeners: &gwv1.AllowedListeners{Namespaces: &gwv1.ListenerNamespaces{From: &all}}}})
	}
	listener := func(i int) gwv1.Listener {
		hostname := gwv1.Hostname(fmt.Sprintf("host-%d.example.com", i))
		return gwv1.Listener{Name: gwv1.SectionName(fmt.Sprint("l", i)), Port: 80, Protocol: gwv1.HTTPProtocolType, Hostname: &hostname}
	}
	if !inSets {
		for i := range n {
			gateway(fmt.Sprint("gw-", i), listener(i))
		}
		return r
	}
	gateway("gw", gwv1.Listener{Name: "own", Port: 8080, Protocol: gwv1.HTTPProtocolType})
	for i := range n {
		if i%most == 0 {
			r.ListenerSets = append(r.ListenerSets, &gwv1.ListenerSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("set-", i)},
				Spec: gwv1.ListenerSetSpec{ParentRef: gwv1.ParentGatewayReference{Name: "gw"}}})
		}
		s := r.ListenerSets[len(r.ListenerSets)-1]
		s.Spec.Listeners = append(s.Spec.Listeners, gwv1.ListenerEntry(listener(i)))
	}
	return r
}

func BenchmarkListenersOnOnePort(b *testing.B) {
	for _, n := range []int{1250, 2500, 5000} {
		for name, inSets := range map[string]bool{"Gateways": false, "ListenerSets": true} {
			r := crowd(n, inSets)
			b.Run(fmt.Sprintf("%s=%d", name, n), func(b *testing.B) {
				for b.Loop() {
					translate.Translate(r, translate.Options{ControllerName: controllerName, Now: now, ByNode: true})
				}
			})
		}
	}
}
