// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
)

// names is a name server whose answers a test may change.
type names map[string][]string

func (n names) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	if n[host] == nil {
		return nil, errors.New("no such host")
	}
	var addrs []netip.Addr
	for _, a := range n[host] {
		addrs = append(addrs, netip.MustParseAddr(a))
	}
	return addrs, nil
}

func backendOf(hosts ...string) *config.Snapshot {
	b := config.Backend{Name: "shop/db:5432"}
	for _, h := range hosts {
		b.Endpoints = append(b.Endpoints, config.Endpoint{Host: h, Port: 5432})
	}
	return &config.Snapshot{Backends: []config.Backend{b}}
}

func hostsOf(s *config.Snapshot) []string {
	var hosts []string
	for _, e := range s.Backends[0].Endpoints {
		hosts = append(hosts, e.Host)
	}
	return hosts
}

func TestNamesOfEndpointsBecomeAddresses(t *testing.T) {
	dns := names{"db.example.com": {"192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"}, "other.example.com": {"192.0.2.9"}}
	cases := []struct {
		name        string
		hosts, want []string
	}{
		{"an address stays", []string{"192.0.2.1"}, []string{"192.0.2.1"}},
		{"an IPv6 address stays", []string{"2001:db8::1"}, []string{"2001:db8::1"}},
		{"a name becomes its addresses, each once", []string{"db.example.com"}, []string{"192.0.2.7", "2001:db8::7"}},
		{"names and addresses mix", []string{"192.0.2.1", "db.example.com", "other.example.com"}, []string{"192.0.2.1", "192.0.2.7", "192.0.2.9", "2001:db8::7"}},
		{"an address that is there twice counts once", []string{"192.0.2.9", "other.example.com"}, []string{"192.0.2.9"}},
		{"a name without an answer gives no endpoint", []string{"192.0.2.1", "gone.example.com"}, []string{"192.0.2.1"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := newResolver(slog.New(slog.DiscardHandler))
			r.lookup = dns.lookup
			s := backendOf(c.hosts...)
			r.learn(t.Context(), s)
			if diff := cmp.Diff(c.want, hostsOf(r.apply(s))); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.hosts, hostsOf(s)); diff != "" {
				t.Errorf("the snapshot itself changed: %s", diff)
			}
		})
	}
}

// TestNamesOfTenantsDoNotLeadToTheMachineItself has names that lead where the API
// server lets no EndpointSlice lead, at once or later.
func TestNamesOfTenantsDoNotLeadToTheMachineItself(t *testing.T) {
	for _, bad := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "::"} {
		r := newResolver(slog.New(slog.DiscardHandler))
		dns := names{"good.example.com": {"192.0.2.7"}, "bad.example.com": {"192.0.2.8", bad}}
		r.lookup, r.tenants = dns.lookup, true
		s := backendOf("good.example.com", "bad.example.com")
		r.learn(t.Context(), s)
		dns["good.example.com"] = []string{bad}
		r.refresh(t.Context())
		if diff := cmp.Diff([]string{"192.0.2.7"}, hostsOf(r.apply(s))); diff != "" {
			t.Errorf("%s: %s", bad, diff)
		}
		if len(r.unresolved()) != 2 {
			t.Errorf("%s: unresolved are %v", bad, r.unresolved())
		}
	}
}

func TestANameWithoutAnAnswerHoldsUpOneSnapshotOnly(t *testing.T) {
	asked := 0
	r := newResolver(slog.New(slog.DiscardHandler))
	r.lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
		asked++
		return nil, errors.New("no answer")
	}
	for range 3 {
		r.learn(t.Context(), backendOf("db.example.com"))
	}
	if asked != 1 {
		t.Errorf("asked %d times for three snapshots", asked)
	}
	if r.refresh(t.Context()); asked != 2 || !r.pending() {
		t.Errorf("asked %d times, pending %v: it is not asked for again", asked, r.pending())
	}
}

// TestNamesThatNobodyAnswersForLeaveTimeToOthers has more of them than are looked
// up at a time.
func TestNamesThatNobodyAnswersForLeaveTimeToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := []string{"db.example.com"}
		for i := range 100 {
			hosts = append(hosts, fmt.Sprintf("%d.example.com", i))
		}
		dns := names{"db.example.com": {"192.0.2.7"}}
		r := newResolver(slog.New(slog.DiscardHandler))
		r.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if host != "db.example.com" {
				<-ctx.Done()
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return dns.lookup(ctx, host)
		}
		s := backendOf(hosts...)
		r.learn(t.Context(), s)
		for i := range 20 {
			dns["db.example.com"] = []string{fmt.Sprintf("192.0.2.%d", 10+i)}
			r.refresh(t.Context())
			if diff := cmp.Diff(dns["db.example.com"], hostsOf(r.apply(s))); diff != "" {
				t.Fatal(diff)
			}
		}
	})
}

func TestANameKeepsItsLastAnswerUntilThereIsANewOne(t *testing.T) {
	dns := names{"db.example.com": {"192.0.2.7"}}
	r := newResolver(slog.New(slog.DiscardHandler))
	r.lookup = dns.lookup
	s := backendOf("db.example.com")
	r.learn(t.Context(), s)
	steps := []struct {
		name    string
		answer  []string
		changed bool
		want    []string
		failing bool
	}{
		{"the same answer", []string{"192.0.2.7"}, false, []string{"192.0.2.7"}, false},
		{"the name server fails", nil, false, []string{"192.0.2.7"}, true},
		{"an empty answer", []string{}, false, []string{"192.0.2.7"}, true},
		{"another address", []string{"192.0.2.8"}, true, []string{"192.0.2.8"}, false},
	}
	for _, step := range steps {
		dns["db.example.com"] = step.answer
		if changed := r.refresh(t.Context()); changed != step.changed {
			t.Errorf("%s: changed is %v", step.name, changed)
		}
		if diff := cmp.Diff(step.want, hostsOf(r.apply(s))); diff != "" {
			t.Errorf("%s: %s", step.name, diff)
		}
		if failing := len(r.unresolved()) > 0; failing != step.failing {
			t.Errorf("%s: unresolved is %v", step.name, r.unresolved())
		}
	}
	r.learn(t.Context(), backendOf("192.0.2.1"))
	if len(r.answers)+len(r.failures) != 0 {
		t.Errorf("names that no endpoint has any more are remembered: %v", r.answers)
	}
}
