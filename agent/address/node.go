// SPDX-License-Identifier: Apache-2.0

package address

import "net/netip"

// Node returns the addresses that the node has on its own. Those of a Holder are
// left out, also of one of a process before, which may not hold them again.
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
