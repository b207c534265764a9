// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

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

// TestALeaseOfANodeThatIsGoneIsNotTakenForNewAtTheStart starts with the Leases of
// nodes of which one died before; the clocks of the others differ.
func TestALeaseOfANodeThatIsGoneIsNotTakenForNewAtTheStart(t *testing.T) {
	now := time.Now()
	n := &nodes{log: slog.New(slog.DiscardHandler), now: func() time.Time { return now }}
	renewed := func(name string, at time.Time) {
		t.Helper()
		l, err := publication.EncodeNode("sluice-system", publication.Node{Name: name, Holder: name, Renewed: at, Lasts: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		n.observe(l, false)
	}
	live := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names(n.live())); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	renewed("gone", now.Add(-10*time.Minute))
	renewed("behind", now.Add(-time.Minute))
	renewed("n1", now)
	renewed("n2", now.Add(-9*time.Second))
	live("behind", "n1", "n2")
	renewed("gone", now.Add(-10*time.Minute+10*time.Second)) // it was not gone, its clock is wrong
	live("behind", "gone", "n1", "n2")

	// All were away, with the API server: nobody is gone.
	n = &nodes{log: n.log, now: n.now}
	renewed("n1", now.Add(-time.Hour))
	renewed("n2", now.Add(-time.Hour-10*time.Second))
	live("n1", "n2")
}

// TestFailuresThatDoNotFitAreNotTakenForSuccess reports more of them than a Lease
// can hold.
func TestFailuresThatDoNotFitAreNotTakenForSuccess(t *testing.T) {
	n := publication.Node{Name: "n1", Serves: 1, Failures: map[string]string{}}
	p := &published{version: 1}
	for i := range 2000 {
		l := fmt.Sprintf("shop/gw/listener-%d", i)
		p.listeners = append(p.listeners, l)
		n.Failures[l] = "listen tcp :443: bind: address already in use; another process has the port: ss -ltnp names it"
	}
	l, err := publication.EncodeNode("sluice-system", n)
	if err != nil {
		t.Fatal(err)
	}
	told, err := publication.DecodeNode(l)
	if err != nil {
		t.Fatal(err)
	}
	r := report([]publication.Node{told, {Name: "n2", Serves: 1}}, map[string]*published{"shop/gw": p}, nil, nil)[0]
	failing := 0
	for _, why := range r.Listeners {
		if why == "" {
			t.Fatal("a listener counts as served")
		}
		failing++
	}
	if failing == 0 || failing == len(p.listeners) {
		t.Errorf("%d listeners fail, want some of %d", failing, len(p.listeners))
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
