// SPDX-License-Identifier: Apache-2.0

package address

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// lifetime is how long the kernel keeps an address that nobody renews, in
	// seconds, and renewBelow when it is renewed: an agent that was killed, or
	// hangs, does not answer for its addresses much longer than its Lease lasts.
	lifetime   = 5
	renewBelow = 3
	// lifetimeKept is for addresses that another process of the node is about to
	// take over: it has to start first.
	lifetimeKept = 15

	// ours marks our addresses; the kernel itself uses 1 to 3.
	ours = 'S'
	// ifaProto is IFA_PROTO (Linux 5.18, commit 47f0bd503210), whose value says
	// who made an address.
	ifaProto = 11

	// loopback is the index of the loopback link, in every namespace.
	loopback = 1
)

// assigned is an address that a link of this node has.
type assigned struct {
	addr netip.Addr
	link int
	ours bool
	left uint32 // seconds until the kernel removes it
}

// list asks the kernel for all addresses of this node.
func list() (out []assigned, err error) {
	var messages [][]byte
	for range 3 {
		req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		messages, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break // else something changed meanwhile
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this node: %w", err)
	}
	for _, m := range messages {
		head := nl.DeserializeIfAddrmsg(m)
		attributes, err := nl.ParseRouteAttr(m[head.Len():])
		if err != nil {
			return nil, fmt.Errorf("list the addresses of this node: %w", err)
		}
		a := assigned{link: int(head.Index)}
		var local, address netip.Addr
		for _, t := range attributes {
			switch t.Attr.Type {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(t.Value)
			case unix.IFA_ADDRESS:
				address, _ = netip.AddrFromSlice(t.Value)
			case unix.IFA_CACHEINFO:
				a.left = nl.DeserializeIfaCacheInfo(t.Value).Valid
			case ifaProto:
				a.ours = t.Value[0] == ours
			}
		}
		// IPv6 has IFA_LOCAL only where there is a peer, whose IFA_ADDRESS is.
		if a.addr = local; !local.IsValid() {
			a.addr = address
		}
		out = append(out, a)
	}
	return out, nil
}

// put adds an address to a link, or renews it there.
//
// Nobody but its own clients shall notice: it is no source of connections that
// the node opens (IPv4: scope host; IPv6: deprecated, RFC 6724 5.3) and brings
// no route. IPv6 is usable at once, without duplicate address detection: the
// node that had it may still be there.
func put(a netip.Addr, link, flags int, seconds uint32) error {
	head := nl.NewIfAddrmsg(unix.AF_INET)
	head.Prefixlen, head.Index, head.Scope = uint8(a.BitLen()), uint32(link), unix.RT_SCOPE_HOST
	more := uint32(unix.IFA_F_NOPREFIXROUTE)
	if a.Is6() {
		head.Family, head.Scope = unix.AF_INET6, unix.RT_SCOPE_UNIVERSE
		more |= unix.IFA_F_NODAD
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_ACK|flags)
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(more)))
	req.AddData(nl.NewRtAttr(ifaProto, []byte{ours}))
	life := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: seconds}} // and preferred for no second
	req.AddData(nl.NewRtAttr(unix.IFA_CACHEINFO, life.Serialize()))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("hold address %s on link %s: %w%s", a, name(link), err, cure(err, a, link))
	}
	return nil
}

// settle waits until packets for an address reach this node's sockets, no longer
// than until by. The kernel makes the route of a new IPv6 address a moment after
// the address, hundreds of milliseconds on a busy machine, and until then sends
// packets for it elsewhere.
func settle(a netip.Addr, by time.Time) {
	for {
		found, err := netlink.RouteGet(a.AsSlice())
		if err == nil && len(found) > 0 && found[0].Type == unix.RTN_LOCAL || time.Now().After(by) {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// remove removes an address of ours from a link, if it is still there.
func remove(a netip.Addr, link int) error {
	head := nl.NewIfAddrmsg(unix.AF_INET)
	if a.Is6() {
		head.Family = unix.AF_INET6
	}
	head.Prefixlen, head.Index = uint8(a.BitLen()), uint32(link)
	req := nl.NewNetlinkRequest(unix.RTM_DELADDR, unix.NLM_F_ACK)
	req.AddData(head)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err == nil || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("let go of address %s on link %s: %w%s", a, name(link), err, cure(err, a, link))
}

// cure tells what to do about an error.
func cure(err error, a netip.Addr, link int) string {
	switch {
	case errors.Is(err, unix.EPERM):
		return "; the agent needs CAP_NET_ADMIN in the network namespace of the node (hostNetwork)"
	case errors.Is(err, unix.EACCES) && a.Is6():
		return fmt.Sprintf("; IPv6 is off on this link, turn it on with sysctl net.ipv6.conf.%s.disable_ipv6=0", name(link))
	}
	return ""
}

// routes are those of the main table.
type routes []netlink.Route

func mainTable() (routes, error) {
	var all routes
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		of, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.EAFNOSUPPORT) {
			return nil, fmt.Errorf("list the routes of this node: %w", err)
		}
		all = append(all, of...)
	}
	return all, nil
}

// link is the link on which neighbors look for an address: that of the route
// which leads there. NDP answers only for addresses of the link that is asked,
// and ARP does so where arp_ignore is 1, as kube-proxy in IPVS mode sets it.
// Without a route it is the loopback link, where whoever routes packets for
// the address to this node finds it.
func (rs routes) link(a netip.Addr) int {
	link, bits, metric := loopback, -1, 0
	for _, r := range rs {
		dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		switch {
		case r.Dst != nil:
			ip, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, size := r.Dst.Mask.Size()
			if size == 32 {
				ip = ip.Unmap()
			}
			dst = netip.PrefixFrom(ip, ones)
		case r.Family == unix.AF_INET6:
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		index := r.LinkIndex
		if len(r.MultiPath) > 0 {
			index = r.MultiPath[0].LinkIndex
		}
		if r.Type != unix.RTN_UNICAST || index == 0 || !dst.Contains(a) {
			continue
		}
		if dst.Bits() > bits || dst.Bits() == bits && r.Priority < metric {
			link, bits, metric = index, dst.Bits(), r.Priority
		}
	}
	return link
}
