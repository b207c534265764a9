// SPDX-License-Identifier: Apache-2.0

package address

import "net/netip"

// Node returns the addresses that the node has on its own, those of every
// Holder left out.
func Node() ([]netip.Addr, error) {
	all, err := list()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range all {
		if !a.ours {
			out = append(out, a.addr)
		}
	}
	return out, nil
}
