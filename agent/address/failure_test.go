// SPDX-License-Identifier: Apache-2.0

package address

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A failure says what was tried, why it failed and what to do about it, and is
// gone when it is done.
func TestAFailureNamesTheCure(t *testing.T) {
	v4, v6 := moving[0], moving[1]
	for _, c := range []struct {
		name         string
		capabilities string
		prepare      func(t *testing.T, node *host)
		address      netip.Addr
		want         string
		cure         func(t *testing.T, node *host)
	}{
		{name: "no CAP_NET_ADMIN", capabilities: "+bpf,+perfmon,+net_bind_service", address: v4,
			want: "hold address 10.77.0.200 on link eth0: operation not permitted; the agent needs CAP_NET_ADMIN in the network namespace of the node (hostNetwork)"},
		{name: "no CAP_BPF", capabilities: "+net_admin,+perfmon,+net_bind_service", address: v6,
			want: "announce address fd77::200 on link eth0: load the BPF program sl_frame: operation not permitted, it needs CAP_BPF and CAP_NET_ADMIN; neighbors go on sending to the node that had it until they ask again"},
		{name: "no route", address: netip.MustParseAddr("2001:db8::1"),
			want: "announce address 2001:db8::1: no route of this node leads to it, so it is on link lo and no neighbor is told; add a route to its subnet, on the link where they are",
			cure: func(t *testing.T, node *host) { ip(t, node, "route add 2001:db8::/64 dev eth0") }},
		{name: "IPv6 is off", address: v6,
			prepare: func(t *testing.T, node *host) { set(t, node, "ipv6/conf/all/disable_ipv6", "1") },
			want:    "hold address fd77::200 on link lo: permission denied; IPv6 is off on this link, turn it on with sysctl net.ipv6.conf.lo.disable_ipv6=0",
			cure: func(t *testing.T, node *host) {
				set(t, node, "ipv6/conf/all/disable_ipv6", "0")
				ip(t, node, "address add fd77::1/64 dev eth0 nodad")
			}},
		{name: "arp_ignore", address: v4,
			prepare: func(t *testing.T, node *host) { set(t, node, "ipv4/conf/all/arp_ignore", "8") },
			want:    "answer for address 10.77.0.200 on link eth0: arp_ignore is 8, with which the kernel does not answer for it; set net.ipv4.conf.all.arp_ignore and net.ipv4.conf.eth0.arp_ignore to 0 or 1",
			cure:    func(t *testing.T, node *host) { set(t, node, "ipv4/conf/all/arp_ignore", "1") }},
		{name: "not an address that moves", address: netip.MustParseAddr("224.0.0.1"),
			want: "hold address 224.0.0.1: it is not a global unicast address; take it out of the pool"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, hosts := lan(t, 1)
			if c.prepare != nil {
				c.prepare(t, hosts[0])
			}
			if c.capabilities == "" {
				c.capabilities = capabilities
			}
			h := start(t, hosts[0].NS, c.capabilities)
			// The other address goes on.
			other := netip.MustParseAddr("10.77.0.201")
			got := h.do("set", c.address, other)[c.address.String()]
			if got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if strings.Contains(c.capabilities, "+net_admin") {
				if diff := cmp.Diff([]string{"eth0"}, on(t, hosts[0], other)); diff != "" {
					t.Error(diff)
				}
			}
			if c.cure != nil {
				c.cure(t, hosts[0])
				eventually(t, "the failure is gone", func() bool { return len(h.do("failures")) == 0 })
			}
		})
	}
}

func TestTheMetricsTellWhatIsHeld(t *testing.T) {
	_, hosts := lan(t, 1)
	h := start(t, hosts[0].NS, capabilities)
	h.must("set", moving...)
	h.must("set", moving[1])
	h.do("set", moving[1], netip.MustParseAddr("224.0.0.1"))
	want := map[string]string{
		"sluice_address_held{address=224.0.0.1}":    "0",
		"sluice_address_held{address=fd77::200}":    "1",
		"sluice_address_moves_total{move=released}": "1",
		"sluice_address_moves_total{move=taken}":    "2",
	}
	if diff := cmp.Diff(want, h.do("metrics")); diff != "" {
		t.Error(diff)
	}
}
