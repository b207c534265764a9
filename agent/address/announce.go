// SPDX-License-Identifier: Apache-2.0

package address

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// announcements are the frames that tell every neighbor on a link where an
// address is now. A neighbor that knew it elsewhere believes them at once.
func announcements(a netip.Addr, mac net.HardwareAddr) [][]byte {
	if a.Is4() {
		// RFC 5227, 3: a request. Some only take a reply, so both, as others do.
		return [][]byte{arp(1, a, mac), arp(2, a, mac)}
	}
	return [][]byte{neighborAdvertisement(a, mac)}
}

// arp is a gratuitous ARP packet (RFC 826): sender and target are the address.
func arp(operation uint16, a netip.Addr, mac net.HardwareAddr) []byte {
	f := ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4) // Ethernet and IPv4, with their lengths
	f = binary.BigEndian.AppendUint16(f, operation)
	f = append(append(f, mac...), a.AsSlice()...)
	return append(append(f, mac...), a.AsSlice()...)
}

// neighborAdvertisement is an unsolicited one, to all nodes, that overrides
// what they knew (RFC 4861, 4.4 and 7.2.6).
func neighborAdvertisement(a netip.Addr, mac net.HardwareAddr) []byte {
	const length, icmpv6, hopLimit = 32, 58, 255
	allNodes := netip.MustParseAddr("ff02::1")
	override := []byte{0x20, 0, 0, 0}
	message := slices.Concat([]byte{136, 0, 0, 0}, override, a.AsSlice(), []byte{2, 1}, mac)
	pseudo := slices.Concat(a.AsSlice(), allNodes.AsSlice(), []byte{0, 0, 0, length, 0, 0, 0, icmpv6})
	binary.BigEndian.PutUint16(message[2:], checksum(append(pseudo, message...)))

	f := ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0, 0, length, icmpv6, hopLimit)
	return slices.Concat(f, a.AsSlice(), allNodes.AsSlice(), message)
}

func ethernet(to, from net.HardwareAddr, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(slices.Concat(to, from), protocol)
}

// checksum is that of RFC 1071, of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// frames sends frames by links, through the program sl_frame. It needs CAP_BPF
// and CAP_NET_ADMIN, where a packet socket would need CAP_NET_RAW.
type frames map[int]*bpf.FrameObjects // by link

func (f frames) send(link int, frame []byte) error {
	if f[link] == nil {
		o, err := load(link)
		if err != nil {
			return err
		}
		f[link] = o
	}
	result, _, err := f[link].SlFrame.Test(frame)
	if err == nil && int32(result) < 0 {
		err = syscall.Errno(-int32(result))
	}
	return err
}

func load(link int) (*bpf.FrameObjects, error) {
	spec, err := bpf.LoadFrame()
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[bpf.FrameVarLink].Set(uint32(link)); err != nil {
		return nil, err
	}
	var o bpf.FrameObjects
	err = spec.LoadAndAssign(&o, nil)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, errors.New("load the BPF program sl_frame: operation not permitted, it needs CAP_BPF and CAP_NET_ADMIN")
	case err != nil:
		return nil, fmt.Errorf("load the BPF program sl_frame: %w", err)
	}
	return &o, nil
}

// unload unloads the program for a link.
func (f frames) unload(link int) {
	_ = f[link].Close() // closes descriptors, which does not fail
	delete(f, link)
}
