// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-gateway/sluice/controller/publication"
)

func TestABackendIsEmptyWhereItIs(t *testing.T) {
	live := []publication.Node{
		{Name: "n1", Empty: map[string]string{"a:1": "none is ready", "b:1": "none is on this node"}},
		{Name: "n2", Empty: map[string]string{"a:1": "none is ready"}},
		{Name: "n3", Empty: map[string]string{"c:1": "none is ready"}, Draining: true},
	}
	want := map[string]string{"a:1": "none is ready", "b:1": "none is on this node (on n1 of 2 nodes)"}
	if diff := cmp.Diff(want, report(live, nil, nil, nil)[0].Empty); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAnAddressIsHeldWhenOneNodeHoldsIt(t *testing.T) {
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::3")
	got := heldAddresses([]publication.Node{
		{Name: "n1", Held: []netip.Addr{a}, Unheld: map[string]string{a.String(): "neighbors are not told", c.String(): "not permitted"}},
		{Name: "n2", Held: []netip.Addr{b}, Draining: true},
		{Name: "n3", Unheld: map[string]string{b.String(): "not let go", c.String(): "a reason before in the alphabet"}},
	})
	want := map[netip.Addr]string{a: "", b: "", c: "not permitted"}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
