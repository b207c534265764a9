// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// stale chooses the entries of connection tracking that keep datagrams from
// where they have to go.
type stale struct {
	listeners map[label]*listener
	sockets   map[netip.AddrPort]label
	local     []netip.Addr
}

// endStale ends the sessions whose endpoint is none of their listener's any
// more, and what was there before a listener had its rules. The next datagram
// then begins a session.
func endStale(listeners []listener) error {
	s := &stale{map[label]*listener{}, map[netip.AddrPort]label{}, localAddresses()}
	for i := range listeners {
		l := &listeners[i]
		s.listeners[labelOf(l.name)] = l
		for _, at := range l.sockets() {
			s.sockets[at] = labelOf(l.name)
		}
	}
	var errs []error
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, s); err != nil {
			errs = append(errs, fmt.Errorf("end stale sessions: %w", err))
		}
	}
	return errors.Join(errs...)
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s *stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	from, to := addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort), addrPort(flow.Forward.DstIP, flow.Forward.DstPort)
	now, listens := s.at(to)
	if isOurs(flow.Labels) {
		l := s.listeners[label(flow.Labels)]
		return l == nil || now != label(flow.Labels) || !l.endpoints[from]
	}
	return listens && from == to // begun before the rules were there
}

// at returns whose datagrams for an address and port are.
func (s *stale) at(to netip.AddrPort) (l label, listens bool) {
	if l, listens = s.sockets[to]; listens {
		return l, true
	}
	if l, listens = s.sockets[netip.AddrPortFrom(netip.Addr{}, to.Port())]; listens {
		listens = to.Addr().IsLoopback() || slices.Contains(s.local, to.Addr())
	}
	return l, listens
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// sessions counts the sessions that connection tracking has, by listener.
func sessions(listeners []listener) (map[string]int, error) {
	names := map[label]string{}
	out := map[string]int{}
	for i := range listeners {
		names[labelOf(listeners[i].name)] = listeners[i].name
		out[listeners[i].name] = 0
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		for _, flow := range flows {
			if !isOurs(flow.Labels) {
				continue
			}
			if name := names[label(flow.Labels)]; name != "" {
				out[name]++
			}
		}
	}
	return out, nil
}
