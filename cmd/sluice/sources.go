// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// sources are local addresses, as a flag.
type sources []netip.Addr

// String implements flag.Value.
func (s *sources) String() string {
	var all []string
	for _, a := range *s {
		all = append(all, a.String())
	}
	return strings.Join(all, ",")
}

// Set implements flag.Value. Addresses that this machine does not have are mistakes.
func (s *sources) Set(value string) error {
	*s = nil
	for text := range strings.SplitSeq(value, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("%q is no IP address", text)
		}
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
		if err != nil || a.IsUnspecified() {
			return fmt.Errorf("%s is no address of this machine", a)
		}
		_ = l.Close()
		*s = append(*s, a.Unmap())
	}
	return nil
}
