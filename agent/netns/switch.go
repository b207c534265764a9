// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Switch is an Ethernet switch between hosts: a bridge in a namespace of its
// own. Its ports forward at once (no spanning tree).
type Switch struct {
	ns    *NS
	ports int
}

const bridge = "bridge"

// NewSwitch makes a switch without ports. The caller closes it, which cuts all
// links.
func NewSwitch() (*Switch, error) {
	ns, err := New()
	if err != nil {
		return nil, err
	}
	err = ns.Do(func() error {
		b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
		if err := netlink.LinkAdd(b); err != nil {
			return fmt.Errorf("add bridge: %w", err)
		}
		return netlink.LinkSetUp(b)
	})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Switch{ns: ns}, nil
}

// Close lets go of the switch. Its links go with it.
func (s *Switch) Close() error { return s.ns.Close() }

// Port is one of a switch, in the order of Connect.
type Port int

func (p Port) name() string { return fmt.Sprintf("port%d", int(p)) }

// Connect gives a host a link named eth0 with addresses, and plugs it in.
func (s *Switch) Connect(host *NS, addresses ...netip.Prefix) (Port, error) {
	p := Port(s.ports)
	s.ports++
	err := s.ns.Do(func() error {
		peer := "host" + p.name()
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: p.name()}, PeerName: peer}); err != nil {
			return fmt.Errorf("add veth pair %s: %w", p.name(), err)
		}
		l, err := netlink.LinkByName(peer)
		if err != nil {
			return fmt.Errorf("link %s: %w", peer, err)
		}
		if err := netlink.LinkSetName(l, "eth0"); err != nil {
			return fmt.Errorf("rename link %s: %w", peer, err)
		}
		return setUp(host, "eth0", addresses)
	})
	return p, errors.Join(err, s.Plug(p))
}

// Plug puts the cable of a port in: the host's link has a carrier.
func (s *Switch) Plug(p Port) error {
	return s.port(p, func(l, b netlink.Link) error {
		return errors.Join(netlink.LinkSetMaster(l, b), netlink.LinkSetUp(l))
	})
}

// Unplug pulls it out: the host's link has no carrier.
func (s *Switch) Unplug(p Port) error {
	return s.port(p, func(l, _ netlink.Link) error { return netlink.LinkSetDown(l) })
}

// Isolate cuts a port off from the others, and its host does not notice.
func (s *Switch) Isolate(p Port) error {
	return s.port(p, func(l, _ netlink.Link) error { return netlink.LinkSetNoMaster(l) })
}

func (s *Switch) port(p Port, f func(port, bridge netlink.Link) error) error {
	return s.ns.Do(func() error {
		l, err := netlink.LinkByName(p.name())
		if err != nil {
			return fmt.Errorf("link %s: %w", p.name(), err)
		}
		b, err := netlink.LinkByName(bridge)
		if err != nil {
			return fmt.Errorf("link %s: %w", bridge, err)
		}
		return f(l, b)
	})
}
