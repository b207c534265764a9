// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// TestTakenFindsWhatALookAtEachFinds compares with one pair after the other, for
// listeners that have ports, protocols, names and addresses in common.
func TestTakenFindsWhatALookAtEachFinds(t *testing.T) {
	protocols := []gwv1.ProtocolType{gwv1.HTTPProtocolType, gwv1.HTTPSProtocolType, gwv1.TLSProtocolType, gwv1.TCPProtocolType, gwv1.UDPProtocolType}
	found := 0
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 4))
		var all []*listener
		for i := range 12 {
			g := &gateway{name: name{"default", fmt.Sprint(i)}}
			for range max(0, random.IntN(4)-1) {
				g.addresses = append(g.addresses, netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(3))}))
			}
			all = append(all, &listener{gateway: g, hostname: []string{"", "a", "b", "c"}[random.IntN(4)],
				spec: &gwv1.Listener{Port: gwv1.PortNumber(random.IntN(3)), Protocol: protocols[random.IntN(len(protocols))]}})
		}
		served, own := newTaken(), newTaken()
		for i, l := range all {
			before := all[:i]
			find := func(what string, got *listener, f func(o *listener) bool) {
				t.Helper()
				var want *listener
				if i := slices.IndexFunc(before, f); i >= 0 {
					want = before[i]
					found++
				}
				if got != want {
					t.Fatalf("seed %d, listener %d: %s is %v, want %v", seed, i, what, got, want)
				}
			}
			find("in the way", served.inTheWay(l), func(o *listener) bool { return clash(o, l) != "" })
			find("unlike", own.unlike(l.place(), l), func(o *listener) bool { return samePort(o, l) && !sharePort(o, l) })
			find("namesake", own.namesake(l.place(), l), func(o *listener) bool {
				return samePort(o, l) && o.hostname == l.hostname && o.sharing() == l.sharing()
			})
			served.add(l, l.places()...)
			own.add(l, l.place())
		}
	}
	if found < 1000 {
		t.Errorf("only %d were found", found)
	}
}
