// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func TestAListenerThatFailsOnOneNodeIsToldWithTheNode(t *testing.T) {
	w := newWorld(t)
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	n2 := w.node("n2", "192.0.2.2")
	w.untilProgrammed("gw")
	var failing string
	for _, l := range get(w, "gw", &gwv1.Gateway{}).Status.Listeners {
		failing = string(l.Name)
	}
	name := w.ns + "/gw/" + failing
	n2.fail(name, "the port is taken")
	w.until("the listener to say so", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		for _, l := range g.Status.Listeners {
			if string(l.Name) != failing {
				continue
			}
			if lack := condition(l.Conditions, g.Generation, "Programmed", metav1.ConditionFalse, "Invalid"); lack != "" {
				return lack
			}
			if got := message(l.Conditions, "Programmed"); !strings.Contains(got, "the port is taken") || !strings.Contains(got, "n2") {
				return got
			}
		}
		return ""
	})
	n2.fail(name, "")
	w.untilProgrammed("gw")
}
