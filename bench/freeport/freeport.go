// SPDX-License-Identifier: Apache-2.0

// Package freeport finds TCP ports for programs that must be told theirs,
// before they listen.
//
// A port that the kernel picked and that was closed again may be picked again
// for somebody's connection a moment later. The ports here lie below the range
// from which the kernel picks (ip_local_port_range), and each is lent to one
// holder at a time among all processes of a network namespace that ask here.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

const first, end = 10000, 30000

// Take lends a port that nothing listens on, on any address, until release is
// called or the process ends.
func Take() (port uint16, release func(), err error) {
	offset := rand.IntN(end - first)
	for i := range end - first {
		n := first + (offset+i)%(end-first)
		// An abstract name belongs to one socket of the namespace.
		lease, err := net.Listen("unix", fmt.Sprintf("@sluice-freeport-%d", n))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", n))
		if err != nil {
			lease.Close()
			continue
		}
		l.Close()
		return uint16(n), func() { lease.Close() }, nil
	}
	return 0, nil, errors.New("no free TCP port from 10000 to 29999: ss -ltn lists who listens")
}
