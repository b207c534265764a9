// SPDX-License-Identifier: Apache-2.0

package address

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// Assign says which of the live nodes holds each address. Every node that
// knows the same nodes comes to the same result, whatever their order, and a
// node that comes or goes moves only its own addresses (rendezvous hashing,
// Thaler and Ravishankar 1996). Without a node there is no result.
//
// Nodes of different versions must agree: the hash is part of the interface.
func Assign(addresses []netip.Addr, live []string) map[netip.Addr]string {
	if len(live) == 0 {
		return nil
	}
	holders := make(map[netip.Addr]string, len(addresses))
	for _, a := range addresses {
		best, most := "", uint64(0)
		for _, node := range live {
			w := weight(a, node)
			if best == "" || w > most || w == most && node < best {
				best, most = node, w
			}
		}
		holders[a] = best
	}
	return holders
}

// weight is what an address and a node have in common: as good as random, and
// the same everywhere.
func weight(a netip.Addr, node string) uint64 {
	h := sha256.Sum256([]byte(a.Unmap().String() + " " + node))
	return binary.BigEndian.Uint64(h[:])
}
