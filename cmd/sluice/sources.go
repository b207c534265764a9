// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
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
		a = a.Unmap()
		if err := bind(a); a.IsUnspecified() || errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("%s is no address of this machine", a)
		} else if err != nil {
			return fmt.Errorf("bind %s: %w", a, err)
		}
		*s = append(*s, a)
	}
	return nil
}

// bind tries an address as connections will, without a port of its own: it may have none
// to spare.
func bind(a netip.Addr) error {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: a.As16()})
	if a.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Addr: a.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, to)
}
