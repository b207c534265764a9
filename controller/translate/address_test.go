// SPDX-License-Identifier: Apache-2.0

package translate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

// TestAGatewayKeepsItsAddressWhileOthersComeAndGo holds, over many changes,
// that nobody's address changes, that no two have the same one, and that those
// for which there is one get it. Now and then the statuses are lost, and what is
// served decides.
func TestAGatewayKeepsItsAddressWhileOthersComeAndGo(t *testing.T) {
	const size, rounds = 12, 500
	namespace := gwv1.Namespace("sluice")
	r := translate.Resources{
		GatewayClasses: []*gwv1.GatewayClass{{ObjectMeta: metav1.ObjectMeta{Name: "sluice"}, Spec: gwv1.GatewayClassSpec{ControllerName: controllerName,
			ParametersRef: &gwv1.ParametersReference{Group: v1alpha1.GroupName, Kind: "GatewayConfig", Name: "pool", Namespace: &namespace}}}},
		GatewayConfigs: []*v1alpha1.GatewayConfig{{ObjectMeta: metav1.ObjectMeta{Namespace: "sluice", Name: "pool"}, Spec: v1alpha1.GatewayConfigSpec{
			Addresses: v1alpha1.Addresses{Mode: v1alpha1.AddressModePool, Pools: []v1alpha1.AddressRange{"192.0.2.1-192.0.2.4", "192.0.2.101-192.0.2.108"}}}}},
	}
	random := rand.New(rand.NewPCG(1, 1))
	o := translate.Options{ControllerName: controllerName, Now: now}
	has := map[string]string{} // addresses by Gateway
	for round := range rounds {
		if len(r.Gateways) > 0 && random.IntN(2) == 0 {
			i := random.IntN(len(r.Gateways))
			delete(has, r.Gateways[i].Name)
			r.Gateways = slices.Delete(r.Gateways, i, i+1)
		} else if len(r.Gateways) < size+3 {
			// Of equal age, so that a new one may come before those that are there.
			r.Gateways = append(r.Gateways, &gwv1.Gateway{
				ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: fmt.Sprintf("g%d-%d", random.IntN(1000), round), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
				Spec:       gwv1.GatewaySpec{GatewayClassName: "sluice", Listeners: []gwv1.Listener{{Name: "l", Port: 1, Protocol: gwv1.TCPProtocolType}}}})
		}
		if round%10 == 0 {
			o.Statuses = nil
		}
		translation := translate.Translate(r, o)
		o.Previous, o.Statuses = translation.Snapshot, translation.Statuses(translate.Feedback{})
		if err := o.Previous.Validate(); err != nil {
			t.Fatal(err)
		}
		owner := map[string]string{}
		for _, s := range o.Statuses {
			if s.Gateway == nil || len(s.Gateway.Addresses) == 0 {
				continue
			}
			address := s.Gateway.Addresses[0].Value
			if other := owner[address]; other != "" {
				t.Fatalf("round %d: %s has the address of %s, %s", round, s.Name, other, address)
			}
			if had := has[s.Name]; had != "" && had != address {
				t.Fatalf("round %d: %s had %s and has %s", round, s.Name, had, address)
			}
			owner[address], has[s.Name] = s.Name, address
		}
		if want := min(len(r.Gateways), size); len(owner) != want || len(o.Previous.Addresses) != want {
			t.Fatalf("round %d: %d of %d Gateways have an address, the snapshot has %d", round, len(owner), len(r.Gateways), len(o.Previous.Addresses))
		}
	}
}
