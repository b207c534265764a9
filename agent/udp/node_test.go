// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// Clients on the node itself are served as others are.
func TestClientsOnTheNodeItself(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.endpoints("a/b:53/udp", 11, 12, 13)
	l.apply()
	for _, gateway := range []string{gateway4, gateway6} {
		want := 0
		for range 20 {
			c := dialFrom(t, l.gateway, "", to(gateway))
			for range 2 {
				got := mustReach(t, c)
				if want != 0 && got != want {
					t.Errorf("the node itself is at endpoints %d and %d of %s", want, got, gateway)
				}
				want = got
			}
		}
	}
	if got := l.metric("sluice_udp_sessions_total a/gw/udp"); got != 2*20 {
		t.Errorf("%v sessions began, want %d", got, 2*20)
	}
	for _, direction := range []string{"up", "down"} {
		if got := l.metric("sluice_udp_datagrams_total " + direction + " a/gw/udp"); got != 2*20*2 {
			t.Errorf("%v datagrams %s, want %d", got, direction, 2*20*2)
		}
	}
}

// untilServed waits until the listener has no problem any more.
func (l *lab) untilServed() {
	l.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		problem := l.process.ask(l.snapshot).Report["a/gw/udp"]
		if problem == "" {
			return
		}
		if time.Now().After(end) {
			l.t.Fatal("still not served: ", problem)
		}
	}
}

// The kernel drops datagrams for other hosts unless it forwards. Whoever does
// not know that has a listener that swallows everything.
func TestWithoutForwardingTheReportSaysSo(t *testing.T) {
	for sysctl, c := range map[string]struct{ endpoint, gateway string }{
		"ipv4/ip_forward":          {"10.77.1.11", gateway4},
		"ipv6/conf/all/forwarding": {"fd77:1::11", gateway6},
	} {
		t.Run(strings.ReplaceAll(sysctl, "/", "."), func(t *testing.T) {
			l := newLab(t)
			l.answering()
			l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
			l.snapshot.Backends = []config.Backend{{Name: "a/b:53/udp", Endpoints: []config.Endpoint{{Host: c.endpoint, Port: 53}}}}
			l.sysctl(sysctl, "0")
			problem := l.process.ask(l.snapshot).Report["a/gw/udp"]
			if cure := "sysctl -w net." + strings.ReplaceAll(sysctl, "/", ".") + "=1"; !strings.Contains(problem, c.endpoint) || !strings.HasSuffix(problem, cure) {
				t.Errorf("problem %q, want that of %s with %q", problem, c.endpoint, cure)
			}
			if _, _, err := exchange(dialFrom(t, l.client, "", to(c.gateway))); err == nil {
				t.Error("a client is served all the same")
			}
			// What the node itself sends is not forwarded.
			mustReach(t, dialFrom(t, l.gateway, "", to(c.gateway)))

			l.sysctl(sysctl, "1")
			l.untilServed()
			mustReach(t, dialFrom(t, l.client, "", to(c.gateway)))
		})
	}
}

// An endpoint on the loopback address is there for others only with
// route_localnet, and for listeners on that address anyway.
func TestAnEndpointOnTheLoopbackAddress(t *testing.T) {
	l := newLab(t)
	answerAll(t, l.gateway, "127.0.0.1")
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.snapshot.Backends = []config.Backend{{Name: "a/b:53/udp", Endpoints: []config.Endpoint{{Host: "127.0.0.1", Port: 53}}}}
	problem := l.process.ask(l.snapshot).Report["a/gw/udp"]
	if !strings.Contains(problem, "endpoint 127.0.0.1:53 gets datagrams of this machine only") || !strings.HasSuffix(problem, "sysctl -w net.ipv4.conf.all.route_localnet=1") {
		t.Errorf("problem %q, want that of the loopback address with its cure", problem)
	}
	mustReach(t, dialFrom(t, l.gateway, "", to(gateway4)))

	l.sysctl("ipv4/conf/all/route_localnet", "1")
	l.untilServed()
	mustReach(t, dialFrom(t, l.client, "", to(gateway4)))
}
