// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"fmt"
	"net"
	"testing"

	"github.com/sluice-gateway/sluice/agent/config"
)

func TestDatagramsReachTheirEndpointAndAnswersTheirClient(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.endpoints("a/b:53/udp", 11, 12, 13)
	l.apply()
	for _, family := range []struct{ clients, gateway string }{{clients4, gateway4}, {clients6, gateway6}} {
		at := map[int]int{}
		for client := 10; client <= 60; client++ {
			from := fmt.Sprintf(family.clients, client)
			want := 0
			for range 3 { // sessions of one client
				c := dialFrom(t, l.client, from, to(family.gateway))
				for range 2 {
					got := mustReach(t, c)
					if want != 0 && got != want {
						t.Errorf("%s is at endpoints %d and %d", from, want, got)
					}
					want = got
				}
			}
			at[want]++
		}
		if len(at) != 3 {
			t.Errorf("clients are at %v, want all of three endpoints", at)
		}
		t.Logf("clients by endpoint: %v", at)
	}
	if got := l.metric("sluice_udp_sessions_total a/gw/udp"); got != 2*51*3 {
		t.Errorf("%v sessions began, want %d", got, 2*51*3)
	}
	if got := l.metric("sluice_udp_sessions_active a/gw/udp"); got != 2*51*3 {
		t.Errorf("%v sessions are active, want %d", got, 2*51*3)
	}
	for _, direction := range []string{"up", "down"} {
		if got := l.metric("sluice_udp_datagrams_total " + direction + " a/gw/udp"); got != 2*51*3*2 {
			t.Errorf("%v datagrams %s, want %d", got, direction, 2*51*3*2)
		}
	}
}

func TestEndpointsSeeTheGateway(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.endpoints("a/b:53/udp", 11)
	l.apply()
	for _, c := range []struct{ gateway, want string }{{gateway4, "10.77.1.1"}, {gateway6, "fd77:1::1"}} {
		_, saw, err := exchange(dialFrom(t, l.client, "", to(c.gateway)))
		if err != nil {
			t.Fatal(err)
		}
		if host, _, _ := net.SplitHostPort(saw); host != c.want {
			t.Errorf("the endpoint saw %s, want %s", saw, c.want)
		}
	}
}
