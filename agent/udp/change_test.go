// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// sessionsOf opens a session from each client address and returns them with
// the endpoints that they are at.
func (l *lab) sessionsOf(format, gateway string) (conns map[string]net.Conn, at map[string]int) {
	l.t.Helper()
	conns, at = map[string]net.Conn{}, map[string]int{}
	for client := 10; client <= 60; client++ {
		from := fmt.Sprintf(format, client)
		conns[from] = dialFrom(l.t, l.client, from, to(gateway))
		at[from] = mustReach(l.t, conns[from])
	}
	return conns, at
}

func TestEndpointsComeAndGo(t *testing.T) {
	for name, family := range map[string]struct{ clients, gateway string }{"IPv4": {clients4, gateway4}, "IPv6": {clients6, gateway6}} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.answering()
			l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
			l.endpoints("a/b:53/udp", 11, 12, 13)
			l.apply()
			open, at := l.sessionsOf(family.clients, family.gateway)

			l.endpoints("a/b:53/udp", 11, 13)
			l.apply()
			for from, c := range open {
				got := mustReach(t, c)
				if at[from] != 12 && got != at[from] {
					t.Errorf("without 12: session of %s moved from %d to %d", from, at[from], got)
				}
				if got == 12 {
					t.Errorf("session of %s is still at 12", from)
				}
				if again := mustReach(t, dialFrom(t, l.client, from, to(family.gateway))); again != got {
					t.Errorf("without 12: a new session of %s is at %d, the other at %d", from, again, got)
				}
				at[from] = got
			}

			l.endpoints("a/b:53/udp", 11, 12, 13, 14)
			l.apply()
			moved := 0
			for from, c := range open {
				if got := mustReach(t, c); got != at[from] {
					t.Errorf("with 12 and 14: session of %s moved from %d to %d", from, at[from], got)
				}
				switch got := mustReach(t, dialFrom(t, l.client, from, to(family.gateway))); got {
				case at[from]:
				case 12, 14:
					moved++
				default:
					t.Errorf("with 12 and 14: a new session of %s is at %d, its others at %d", from, got, at[from])
				}
			}
			if moved == 0 {
				t.Error("no client has a new session at the endpoints that came")
			}
		})
	}
}

func TestWeightsShareSessions(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.serve(config.BackendRef{Backend: "a/v1:53/udp", Weight: 70}, config.BackendRef{Backend: "a/v2:53/udp", Weight: 30},
		config.BackendRef{Backend: "a/v3:53/udp", Weight: 0})
	for i, b := range []string{"a/v1:53/udp", "a/v2:53/udp", "a/v3:53/udp"} {
		l.endpoints(b, 11+i)
	}
	l.apply()
	const total = 1500
	for _, gateway := range []string{gateway4, gateway6} {
		at := map[int]int{}
		for range total { // from one address
			c := dialFrom(t, l.client, "", to(gateway))
			at[mustReach(t, c)]++
			c.Close()
		}
		// Five standard deviations: one failure in more than a million runs.
		if share, sd := float64(at[11])/total, math.Sqrt(.7*.3/total); math.Abs(share-.7) > 5*sd || at[13] > 0 {
			t.Errorf("shares are %v of %d, want 70 %%, 30 %% and none", at, total)
		}
	}
}

// A backend whose weight becomes 0 keeps its sessions, one that leaves the
// route does not.
func TestWeightZeroDrains(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.endpoints("a/v1:53/udp", 11)
	l.endpoints("a/v2:53/udp", 12)
	l.serve(config.BackendRef{Backend: "a/v1:53/udp", Weight: 1})
	l.apply()
	c := dialFrom(t, l.client, "", to(gateway4))
	for _, step := range []struct {
		refs      []config.BackendRef
		old, next int
	}{
		{[]config.BackendRef{{Backend: "a/v1:53/udp"}, {Backend: "a/v2:53/udp", Weight: 1}}, 11, 12},
		{[]config.BackendRef{{Backend: "a/v2:53/udp", Weight: 1}}, 12, 12},
	} {
		mustReach(t, c)
		l.serve(step.refs...)
		l.apply()
		if got := mustReach(t, c); got != step.old {
			t.Errorf("%+v: the session is at %d, want %d", step.refs, got, step.old)
		}
		if got := mustReach(t, dialFrom(t, l.client, "", to(gateway4))); got != step.next {
			t.Errorf("%+v: a new session is at %d, want %d", step.refs, got, step.next)
		}
	}
}

// refused tells whether the host says that nobody takes the datagram.
func refused(t *testing.T, c net.Conn) bool {
	t.Helper()
	_, _, err := exchange(c)
	return errors.Is(err, syscall.ECONNREFUSED)
}

func TestWhatHasNoEndpointIsRefused(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.endpoints("a/none:53/udp")
	l.endpoints("a/b:53/udp", 11)
	for name, refs := range map[string][]config.BackendRef{
		"no backend":             nil,
		"a reference to nothing": {{Weight: 1}},
		"no endpoint":            {{Backend: "a/none:53/udp", Weight: 1}},
		"weights of 0":           {{Backend: "a/b:53/udp", Weight: 0}},
	} {
		l.serve(refs...)
		l.apply()
		for _, gateway := range []string{gateway4, gateway6} {
			if !refused(t, dialFrom(t, l.client, "", to(gateway))) {
				t.Errorf("%s: not refused at %s", name, gateway)
			}
		}
	}
	if got := l.metric("sluice_udp_datagrams_refused_total a/gw/udp"); got != 8 {
		t.Errorf("%v datagrams were refused, want 8", got)
	}
	// The share of what leads nowhere is not given to others.
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1}, config.BackendRef{Backend: "a/none:53/udp", Weight: 1})
	l.apply()
	const total = 300
	no := 0
	for range total {
		c := dialFrom(t, l.client, "", to(gateway4))
		if refused(t, c) {
			no++
		}
		c.Close()
	}
	if share, sd := float64(no)/total, math.Sqrt(.25/total); math.Abs(share-.5) > 5*sd {
		t.Errorf("%d of %d are refused, want half", no, total)
	}
	// A client that goes on sending is served as soon as there is an endpoint.
	l.serve(config.BackendRef{Backend: "a/none:53/udp", Weight: 1})
	l.apply()
	c := dialFrom(t, l.client, "", to(gateway4))
	if !refused(t, c) {
		t.Error("not refused")
	}
	l.endpoints("a/none:53/udp", 14)
	l.apply()
	if got := mustReach(t, c); got != 14 {
		t.Errorf("at %d, want 14", got)
	}
	// And refused again when the last one goes.
	l.endpoints("a/none:53/udp")
	l.apply()
	if !refused(t, c) {
		t.Error("not refused after the last endpoint went")
	}
}

func TestAnIdleSessionEnds(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.endpoints("a/b:53/udp", 11)
	l.snapshot.Listeners[0].IdleTimeout = 2 * time.Second
	other := l.snapshot.Listeners[0]
	other.Name, other.Port, other.IdleTimeout = "a/gw/patient", port+1, time.Hour
	l.snapshot.Listeners = append(l.snapshot.Listeners, other)
	l.apply()
	mustReach(t, dialFrom(t, l.client, "", to(gateway4)))
	mustReach(t, dialFrom(t, l.client, "", fmt.Sprintf("%s:%d", gateway4, port+1)))
	for deadline := time.Now().Add(time.Minute); l.metric("sluice_udp_sessions_active a/gw/udp") > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the session did not end")
		}
	}
	if got := l.metric("sluice_udp_sessions_active a/gw/patient"); got != 1 {
		t.Errorf("%v sessions of the patient listener, want 1", got)
	}
}

func TestAListenerComesMovesAndGoes(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.endpoints("a/b:53/udp", 11)
	// A client that was there before the listener.
	early := dialFrom(t, l.client, "", to(gateway4))
	if !refused(t, early) {
		t.Error("not refused before there is a listener")
	}
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.apply()
	mustReach(t, early)

	// On one address only.
	l.snapshot.Listeners[0].Addresses = []netip.Addr{netip.MustParseAddr("10.77.0.2")}
	l.apply()
	if !refused(t, dialFrom(t, l.client, "", to(gateway4))) {
		t.Error("an address without listener is served")
	}
	if !refused(t, early) {
		t.Error("an old session goes on at an address without listener")
	}
	mustReach(t, dialFrom(t, l.client, "", to("10.77.0.2")))

	l.snapshot.Listeners = nil
	l.apply()
	if !refused(t, dialFrom(t, l.client, "", to("10.77.0.2"))) || l.ruleset() != "" {
		t.Errorf("something is left of a listener that went: %s", l.ruleset())
	}
}
