// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"

	"github.com/vishvananda/netlink"

	"github.com/sluice-gateway/sluice/agent/netns"
)

// place is where a backend lives: a network namespace at the end of a link.
type place struct {
	ns   *netns.NS
	link string // its end here
	// The backend listens at listen, and gateways connect to address.
	listen, address netip.Addr
}

// newPlace makes a namespace. The far one is like another machine: its link is
// shaped to 1 Gbit/s both ways, and its address is translated, so that the
// kernel does not see both sockets of a connection as one pair. The caller
// closes the place, also after an error.
func newPlace(far bool) (*place, error) {
	p := &place{link: fmt.Sprintf("slb%d", os.Getpid())}
	here, listen, address := linkAddresses(os.Getpid(), far)
	p.listen, p.address = listen.Addr(), listen.Addr()
	theirs := []netip.Prefix{listen}
	if far {
		p.link += "f"
		p.address = address.Addr()
		theirs = append(theirs, address)
	}
	var err error
	if p.ns, err = netns.New(); err != nil {
		return p, err
	}
	if err := netns.Veth(nil, p.ns, p.link, []netip.Prefix{here}, theirs); err != nil || !far {
		return p, err
	}
	shape := []string{"root", "tbf", "rate", "1gbit", "burst", "256kb", "latency", "20ms"}
	return p, errors.Join(
		configure("tc", append([]string{"qdisc", "add", "dev", p.link}, shape...)...),
		p.ns.Do(func() error {
			return errors.Join(
				configure("tc", append([]string{"qdisc", "add", "dev", p.link + "p"}, shape...)...),
				configure("nft", "add table ip bench"),
				configure("nft", "add chain ip bench in { type nat hook prerouting priority -100; }"),
				configure("nft", fmt.Sprintf("add rule ip bench in ip daddr %s dnat to %s", p.address, p.listen)))
		}))
}

func configure(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s (make bench installs iproute2 and nftables)", name, args, err, bytes.TrimSpace(out))
	}
	return nil
}

// linkAddresses are the ends of the link to a backend, our own and two of the
// backend, different ones for runs at the same time. RFC 2544 reserves
// 198.18.0.0/15 for benchmarks.
func linkAddresses(pid int, far bool) (here, listen, address netip.Prefix) {
	subnet := uint16(pid) << 3 // of eight addresses each
	second := byte(18)
	if far {
		second = 19
	}
	end := func(host byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, second, byte(subnet >> 8), byte(subnet) | host}), 29)
	}
	return end(1), end(2), end(3)
}

// Close removes the link at once, a namespace that ends does so later, and lets
// go of the namespace.
func (p *place) Close() error {
	var errs []error
	if l, err := netlink.LinkByName(p.link); err == nil {
		if err := netlink.LinkDel(l); err != nil {
			errs = append(errs, fmt.Errorf("remove link %s: %w", p.link, err))
		}
	}
	if p.ns != nil {
		errs = append(errs, p.ns.Close())
	}
	return errors.Join(errs...)
}
