// SPDX-License-Identifier: Apache-2.0

package address

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestAddressesAreWhereARouteLeads(t *testing.T) {
	_, hosts := lan(t, 1)
	node := hosts[0]
	ip(t, node, "route add default via 10.77.0.254")
	routed := netip.MustParseAddr("192.0.2.1")    // by the default route
	unknown := netip.MustParseAddr("2001:db8::1") // no route at all
	h := start(t, node.NS, capabilities)
	h.do("set", append(slices.Clone(moving), routed, unknown)...)
	for _, c := range []struct {
		addr netip.Addr
		link string
	}{{moving[0], "eth0"}, {moving[1], "eth0"}, {routed, "eth0"}, {unknown, "lo"}} {
		if diff := cmp.Diff([]string{c.link}, on(t, node, c.addr)); diff != "" {
			t.Errorf("%s: %s", c.addr, diff)
		}
	}
	// A route comes.
	ip(t, node, "route add 2001:db8::/64 dev eth0")
	eventually(t, "the address moves to the link of its route", func() bool {
		return slices.Equal(on(t, node, unknown), []string{"eth0"})
	})
	h.must("set")
	for _, a := range []netip.Addr{moving[0], moving[1], routed, unknown} {
		if links := on(t, node, a); len(links) > 0 {
			t.Errorf("%s is still on %q", a, links)
		}
	}
}

func TestWhatTheOperatorSeesOfAnAddress(t *testing.T) {
	_, hosts := lan(t, 1)
	start(t, hosts[0].NS, capabilities).must("set", moving...)
	var got []string
	for line := range strings.Lines(ip(t, hosts[0], "-o address show dev eth0")) {
		if strings.Contains(line, "200") {
			line, _, _ = strings.Cut(line, `\`)
			line = strings.Replace(line, " proto 0x53", "", 1) // which only newer ones print
			got = append(got, strings.Join(strings.Fields(line)[2:], " "))
		}
	}
	want := []string{
		"inet 10.77.0.200/32 scope host deprecated dynamic noprefixroute eth0",
		"inet6 fd77::200/128 scope global nodad deprecated dynamic noprefixroute",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheNodesOwnAddressesAreNeverTouched(t *testing.T) {
	_, hosts := lan(t, 1)
	node := hosts[0]
	own := []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd77::1")}
	before := ip(t, node, "address show")
	h := start(t, node.NS, capabilities)
	h.must("set", own...)
	if diff := cmp.Diff(before, ip(t, node, "address show")); diff != "" {
		t.Error(diff)
	}
	h.must("set")
	if diff := cmp.Diff(before, ip(t, node, "address show")); diff != "" {
		t.Error(diff)
	}
}

func TestAnAddressThatSomebodyRemovesComesBack(t *testing.T) {
	_, hosts := lan(t, 1)
	h := start(t, hosts[0].NS, capabilities)
	h.must("set", moving...)
	for _, a := range moving {
		ip(t, hosts[0], "address del "+netip.PrefixFrom(a, a.BitLen()).String()+" dev eth0")
		if links := on(t, hosts[0], a); len(links) > 0 {
			t.Errorf("%s is still on %q", a, links)
		}
		eventually(t, a.String()+" is back", func() bool { return len(on(t, hosts[0], a)) == 1 })
	}
}

// IPv6 addresses go with the link that goes down, and must come back with it.
func TestAddressesComeBackWithTheLink(t *testing.T) {
	_, hosts := lan(t, 1)
	h := start(t, hosts[0].NS, capabilities)
	h.must("set", moving...)
	ip(t, hosts[0], "link set eth0 down")
	ip(t, hosts[0], "link set eth0 up")
	ip(t, hosts[0], "address add fd77::1/64 dev eth0 nodad") // as who configures the node does
	for _, a := range moving {
		eventually(t, a.String()+" is there", func() bool { return slices.Equal(on(t, hosts[0], a), []string{"eth0"}) })
	}
	eventually(t, "no failure is left", func() bool { return len(h.do("failures")) == 0 })
}

// Nobody answers for the addresses of a process that was killed.
func TestTheAddressesOfAKilledProcessGo(t *testing.T) {
	_, hosts := lan(t, 1)
	h := start(t, hosts[0].NS, capabilities)
	h.must("set", moving...)
	h.kill()
	for _, a := range moving {
		eventually(t, a.String()+" is gone", func() bool { return len(on(t, hosts[0], a)) == 0 })
	}
}

// The next process takes over what the one before left, or lets go of it.
func TestTheNextProcessTakesTheAddressesOver(t *testing.T) {
	_, hosts := lan(t, 1)
	h := start(t, hosts[0].NS, capabilities)
	h.must("set", moving...)
	ids := func() (created []string) {
		for line := range strings.Lines(ip(t, hosts[0], "-o address show dev eth0")) {
			if strings.Contains(line, "200") {
				created = append(created, line[:strings.Index(line, "valid_lft")])
			}
		}
		return created
	}
	before := ids()
	h.kill()
	next := start(t, hosts[0].NS, capabilities)
	next.must("set", moving[0])
	if diff := cmp.Diff([]string{"eth0"}, on(t, hosts[0], moving[0])); diff != "" {
		t.Error(diff)
	}
	if links := on(t, hosts[0], moving[1]); len(links) > 0 {
		t.Errorf("%s, which nobody wants, is on %q", moving[1], links)
	}
	if diff := cmp.Diff(before[:1], ids()); diff != "" {
		t.Error(diff)
	}
}

// Two processes of a node, of which the old one drains: what the young one lets
// go of stays away, what it holds stays there when the old one ends.
func TestAProcessLeavesTheAddressesToAnother(t *testing.T) {
	_, hosts := lan(t, 1)
	old, young := start(t, hosts[0].NS, capabilities), start(t, hosts[0].NS, capabilities)
	old.must("set", moving...)
	young.must("set", moving...)
	old.must("leave")
	young.must("set", moving[0])
	for range 3 * int(tick/(50*time.Millisecond)) {
		if links := on(t, hosts[0], moving[1]); len(links) > 0 {
			t.Fatalf("%s is on %q again", moving[1], links)
		}
		time.Sleep(50 * time.Millisecond)
	}
	old.in.Close()
	_ = old.cmd.Wait()
	if diff := cmp.Diff([]string{"eth0"}, on(t, hosts[0], moving[0])); diff != "" {
		t.Error(diff)
	}
}

// Before neighbors hear of an address, its packets must reach the node's sockets.
func TestAnAddressIsUsableWhenItIsAnnounced(t *testing.T) {
	_, hosts := lan(t, 1)
	h := start(t, hosts[0].NS, capabilities)
	for range 100 {
		h.must("set", moving...)
		for _, a := range moving {
			if got := ip(t, hosts[0], "route get "+a.String()); !strings.HasPrefix(got, "local ") {
				t.Fatalf("%s is not a local address yet: %s", a, got)
			}
		}
		h.must("set")
	}
}
