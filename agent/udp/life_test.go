// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// served is a lab with one listener and sessions of many clients.
func served(t *testing.T) (l *lab, open map[string]net.Conn, at map[string]int) {
	l = newLab(t)
	l.answering()
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.endpoints("a/b:53/udp", 11, 12, 13)
	l.apply()
	open, at = l.sessionsOf(clients4, gateway4)
	return l, open, at
}

// same wants every session at the endpoint where it was.
func same(t *testing.T, when string, open map[string]net.Conn, at map[string]int) {
	t.Helper()
	for from, c := range open {
		if got := mustReach(t, c); got != at[from] {
			t.Errorf("%s: session of %s moved from %d to %d", when, from, at[from], got)
		}
	}
}

// What a killed process was serving goes on, and the next one takes it over.
func TestAKilledGatewayServesOnAndTheNextOneTakesOver(t *testing.T) {
	l, open, at := served(t)
	l.process.stop(syscall.SIGKILL)
	same(t, "killed", open, at)
	mustReach(t, dialFrom(t, l.client, "", to(gateway4)))

	l.process = l.start()
	l.apply()
	same(t, "taken over", open, at)

	// The next one has the say: an endpoint that goes takes its sessions along.
	l.endpoints("a/b:53/udp", 11)
	l.apply()
	for from, c := range open {
		if got := mustReach(t, c); got != 11 {
			t.Errorf("session of %s is at %d, want 11", from, got)
		}
	}
}

func TestAGatewayThatEndsLeavesNothing(t *testing.T) {
	l, open, at := served(t)
	if !strings.Contains(l.ruleset(), "sluice") {
		t.Fatal("there are no rules while it serves")
	}
	l.process.stop(syscall.SIGTERM)
	if rules := l.ruleset(); strings.Contains(rules, "sluice") {
		t.Errorf("rules that stay:\n%s", rules)
	}
	l.process = l.start()
	l.apply()
	same(t, "started again", open, at)
}

func TestRulesThatOthersFlushComeBack(t *testing.T) {
	l, _, _ := served(t)
	if out, err := l.run("nft", "flush", "ruleset"); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	// The first datagram that nothing translates tells the gateway.
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if _, _, err := exchange(dialFrom(t, l.client, "", to(gateway4))); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatalf("a client of a flushed gateway: %v", err)
		}
	}
}

func TestWithoutCapNetAdminTheReportSaysSo(t *testing.T) {
	l, _, _ := served(t)
	l.process.stop(syscall.SIGTERM)
	l.process = l.start("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")
	problem := l.process.ask(l.snapshot).Report["a/gw/udp"]
	if !strings.Contains(problem, "CAP_NET_ADMIN") {
		t.Errorf("problem %q, want that CAP_NET_ADMIN is missing", problem)
	}
}

func TestAPortOfAnotherProcessIsNotTaken(t *testing.T) {
	l := newLab(t)
	l.answering()
	l.serve(config.BackendRef{Backend: "a/b:53/udp", Weight: 1})
	l.endpoints("a/b:53/udp", 11)
	var other net.PacketConn
	if err := l.gateway.Do(func() (err error) {
		other, err = net.ListenPacket("udp", to(""))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if problem := l.process.ask(l.snapshot).Report["a/gw/udp"]; !strings.Contains(problem, "address already in use") {
		t.Errorf("problem %q, want that the address is in use", problem)
	}
	other.Close()
	for end := time.Now().Add(time.Minute); l.process.ask(nil).Report["a/gw/udp"] != ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the port is free and the listener is still not served")
		}
	}
	if got := mustReach(t, dialFrom(t, l.client, "", to(gateway4))); got != 11 {
		t.Errorf("served by %d, want 11", got)
	}
}
