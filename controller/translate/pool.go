// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

// addressRange is the addresses from first to last, both in it.
type addressRange struct{ first, last netip.Addr }

func (r addressRange) contains(a netip.Addr) bool {
	return a.BitLen() == r.first.BitLen() && r.first.Compare(a) <= 0 && a.Compare(r.last) <= 0
}

// parseRange reads a range of a GatewayConfig: "first-last", or a prefix
// without the addresses that are no host's: of IPv4 the network's and the one
// for broadcast, of IPv6 the routers' (RFC 4291, 2.6.1).
func parseRange(s v1alpha1.AddressRange) (addressRange, error) {
	from, to, ok := strings.Cut(string(s), "-")
	var r addressRange
	if ok {
		var err1, err2 error
		r.first, err1 = netip.ParseAddr(strings.TrimSpace(from))
		r.last, err2 = netip.ParseAddr(strings.TrimSpace(to))
		if err1 != nil || err2 != nil || r.first.Zone() != "" || r.last.Zone() != "" {
			return r, fmt.Errorf("%q is not a range such as 192.0.2.10-192.0.2.20", s)
		}
	} else {
		p, err := netip.ParsePrefix(string(s))
		if err != nil {
			return r, fmt.Errorf("%q is neither a CIDR such as 192.0.2.0/24 nor a range such as 192.0.2.10-192.0.2.20", s)
		}
		p = p.Masked()
		r = addressRange{p.Addr(), lastOf(p)}
		if hosts := r.first.BitLen() - p.Bits(); hosts >= 2 {
			r.first = r.first.Next()
			if r.last.Is4() {
				r.last = r.last.Prev()
			}
		}
	}
	switch {
	case r.first.Is4In6() || r.last.Is4In6():
		return r, fmt.Errorf("%q is IPv4 within IPv6; write the IPv4 addresses", s)
	case r.first.BitLen() != r.last.BitLen():
		return r, fmt.Errorf("%q goes from one address family to the other", s)
	case r.last.Less(r.first):
		return r, fmt.Errorf("%q ends before it begins", s)
	case r.first.IsUnspecified() || r.last.IsMulticast():
		return r, fmt.Errorf("%q has addresses that no node can have", s)
	}
	return r, nil
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b) // of the same length
	return a
}

// pool is the addresses of a GatewayConfig, in its order.
type pool []addressRange

func (p pool) contains(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(r addressRange) bool { return r.contains(a) })
}

// String names the ranges.
func (p pool) String() string {
	var all []string
	for _, r := range p {
		all = append(all, fmt.Sprintf("%s-%s", r.first, r.last))
	}
	return strings.Join(all, ", ")
}

// families are the address families in it, as lengths of addresses in bits.
func (p pool) families() []int {
	var out []int
	for _, bits := range []int{32, 128} {
		if slices.ContainsFunc(p, func(r addressRange) bool { return r.first.BitLen() == bits }) {
			out = append(out, bits)
		}
	}
	return out
}

// free returns the first address of a family that is not used; the zero Addr
// when there is none. It looks at no more addresses than are used, and one.
func (p pool) free(bits int, used func(netip.Addr) bool) netip.Addr {
	for _, r := range p {
		for a := r.first; r.first.BitLen() == bits && r.contains(a); a = a.Next() {
			if !used(a) {
				return a
			}
		}
	}
	return netip.Addr{}
}
