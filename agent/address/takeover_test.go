// SPDX-License-Identifier: Apache-2.0

package address

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var moving = []netip.Addr{netip.MustParseAddr("10.77.0.200"), netip.MustParseAddr("fd77::200")}

// set gives a sysctl of a host another value.
func set(t *testing.T, h *host, sysctl, value string) {
	t.Helper()
	within(t, h.NS, func() error { return os.WriteFile("/proc/sys/net/"+sysctl, []byte(value), 0o644) })
}

// The client knows the address at node A, whose link is cut. When node B takes
// it over, the client's next connection goes to B, because the client has
// learned where the address is, and not because its entry expired: it learns
// before it sends anything.
func TestNeighborsLearnWhereAnAddressWent(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, nodes ...*host){
		"plain": func(*testing.T, ...*host) {},
		"with ARP as strict as kube-proxy sets it for IPVS": func(t *testing.T, nodes ...*host) {
			for _, n := range nodes {
				set(t, n, "ipv4/conf/all/arp_ignore", "1")
				set(t, n, "ipv4/conf/all/arp_announce", "2")
			}
		},
		"with the node's addresses on a bridge": func(t *testing.T, nodes ...*host) {
			for _, n := range nodes {
				ip(t, n, "link add br0 type bridge")
				ip(t, n, "link set br0 up")
				for _, own := range n.addresses {
					ip(t, n, "address del "+own.String()+" dev eth0")
					ip(t, n, "address add "+own.String()+" dev br0")
				}
				ip(t, n, "link set eth0 master br0")
				eventually(t, "the bridge is up", func() bool { return !strings.Contains(ip(t, n, "address show dev br0"), "tentative") })
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			lan, hosts := lan(t, 3)
			client, a, b := hosts[0], hosts[1], hosts[2]
			prepare(t, a, b)
			serve(t, a, "A")
			serve(t, b, "B")
			holderA, holderB := start(t, a.NS, capabilities), start(t, b.NS, capabilities)

			holderA.must("set", moving...)
			expect(t, client, "A", a.mac)
			cut(t, lan.Unplug(a.port))
			holderB.must("set", moving...)
			knows(t, client, b.mac)
			expect(t, client, "B", b.mac)

			// A is back, still holding them, and says so. B lets go as soon as it
			// knows that A lives.
			cut(t, lan.Plug(a.port))
			holderA.must("back")
			knows(t, client, a.mac)
			holderB.must("set")
			expect(t, client, "A", a.mac)

			// A does not notice when the others cannot reach it.
			cut(t, lan.Isolate(a.port))
			holderB.must("set", moving...)
			knows(t, client, b.mac)
			expect(t, client, "B", b.mac)
			cut(t, lan.Plug(a.port))
			holderB.must("set")
			holderA.must("announce")
			knows(t, client, a.mac)
			expect(t, client, "A", a.mac)

			// An orderly end.
			holderA.must("set")
			holderB.must("set", moving...)
			knows(t, client, b.mac)
			expect(t, client, "B", b.mac)
			for _, address := range moving {
				if links := on(t, a, address); len(links) > 0 {
					t.Errorf("A let go of %s, and has it on %q", address, links)
				}
			}
		})
	}
}

// The link itself tells that it is back: nobody waits for the next look.
func TestALinkTellsOfItsChanges(t *testing.T) {
	lan, hosts := lan(t, 1)
	var changes <-chan netlink.LinkUpdate
	var end func()
	var index int
	within(t, hosts[0].NS, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		index = l.Attrs().Index
		changes, end = watchLinks()
		return nil
	})
	defer end()
	for _, up := range []bool{false, true} {
		if up {
			cut(t, lan.Plug(hosts[0].port))
		} else {
			cut(t, lan.Unplug(hosts[0].port))
		}
		for u := range changes {
			if int(u.Index) == index && (u.Flags&unix.IFF_LOWER_UP != 0) == up {
				break
			}
		}
	}
}

func cut(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// knows waits until a client that sends nothing knows the addresses at a MAC.
func knows(t *testing.T, client *host, mac string) {
	t.Helper()
	for _, a := range moving {
		eventually(t, "the client knows "+a.String()+" at "+mac, func() bool { return neighbor(t, client, a) == mac })
	}
}

// expect connects to the addresses.
func expect(t *testing.T, client *host, want, mac string) {
	t.Helper()
	for _, a := range moving {
		if got, _ := ask(t, client, a); got != want {
			t.Errorf("%s is answered by %q, want %q", a, got, want)
		}
		if got := neighbor(t, client, a); got != mac {
			t.Errorf("the client knows %s at %s, want %s", a, got, mac)
		}
	}
}

// Both families, and IPv4 with routes whose source nobody named: the kernel
// chooses it when the node opens a connection.
func TestANodeOpensNoConnectionFromAnAddressThatMoves(t *testing.T) {
	_, hosts := lan(t, 2)
	other, node := hosts[0], hosts[1]
	serve(t, other, "other")
	start(t, node.NS, capabilities).must("set", moving...)
	far := netip.MustParseAddr("10.78.0.1")
	ip(t, other, "address add "+far.String()+" dev eth0")
	// Ours is the first on this link after the node's own one went and came.
	ip(t, node, "address del 10.77.0.2/24 dev eth0")
	ip(t, node, "address add 10.77.0.2/24 dev eth0")
	ip(t, node, "route add 10.78.0.0/24 dev eth0 scope link")
	for to, own := range map[string]string{"10.77.0.1": "10.77.0.2", "10.78.0.1": "10.77.0.2", "fd77::1": "fd77::2"} {
		if _, source := ask(t, node, netip.MustParseAddr(to)); source != netip.MustParseAddr(own) {
			t.Errorf("the connection to %s comes from %s, want %s", to, source, own)
		}
	}
}

// Who holds an address also connects to it, and so do processes on its node.
func TestANodeReachesTheAddressItHolds(t *testing.T) {
	_, hosts := lan(t, 1)
	serve(t, hosts[0], "myself")
	start(t, hosts[0].NS, capabilities).must("set", moving...)
	for _, a := range moving {
		if got, _ := ask(t, hosts[0], a); got != "myself" {
			t.Errorf("%s is answered by %q", a, got)
		}
	}
}
