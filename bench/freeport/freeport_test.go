// SPDX-License-Identifier: Apache-2.0

package freeport

import (
	"fmt"
	"net"
	"testing"
)

func TestAPortIsLentToOneAtATimeAndFree(t *testing.T) {
	lent := map[uint16]bool{}
	for range 200 {
		port, release, err := Take()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(release)
		if lent[port] {
			t.Errorf("port %d is lent twice", port)
		}
		lent[port] = true
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			t.Error(err)
			continue
		}
		l.Close()
	}
}
