// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-gateway/sluice/agent/config"
)

// TestAPartThatCannotTakeItsPlaceTakesAwayAndAddsNothing changes everything that a
// part may lose, and adds to it.
func TestAPartThatCannotTakeItsPlaceTakesAwayAndAddsNothing(t *testing.T) {
	refs := func(backends ...string) (out []config.HTTPBackendRef) {
		for _, b := range backends {
			out = append(out, config.HTTPBackendRef{BackendRef: config.BackendRef{Backend: b, Weight: 1}})
		}
		return out
	}
	rule := func(route, path string, backends ...string) config.HTTPRule {
		return config.HTTPRule{Route: route, Match: config.HTTPMatch{Path: path}, Backends: refs(backends...)}
	}
	tls := func(certificates ...string) *config.ListenerTLS {
		return &config.ListenerTLS{Certificates: certificates}
	}
	backends := func(names ...string) (out []config.Backend) {
		for _, n := range names {
			out = append(out, config.Backend{Name: n})
		}
		return out
	}
	certificates := func(names ...string) (out []config.Certificate) {
		for _, n := range names {
			out = append(out, config.Certificate{Name: n, Chain: []byte("chain"), Key: config.Secret("key")})
		}
		return out
	}
	before := &config.Snapshot{
		Listeners: []config.Listener{
			{Name: "a/gw/gone", Port: 1, Protocol: config.TCP},
			{Name: "a/gw/refused", Port: 443, Protocol: config.TLS, Hostname: "x.example", TLS: tls("a/x"), L4: []config.HostRoute{{Hostname: "x.example", Route: "TLSRoute/a/l4"}}},
			{Name: "a/gw/tls", Port: 443, Protocol: config.TLS, TLS: tls("a/one", "b/revoked"), L4: []config.HostRoute{
				{Hostname: "detached.example", Route: "TLSRoute/b/detached"}, {Hostname: "l4.example", Route: "TLSRoute/a/l4"}}},
			{Name: "a/gw/web", Port: 80, Protocol: config.HTTP, HTTP: []config.HTTPHost{
				{Hostname: "shop.example", Rules: []config.HTTPRule{rule("HTTPRoute/a/shop", "/", "a/own:80", "b/revoked:80"), rule("HTTPRoute/b/detached", "/d", "b/theirs:80")}},
				{Hostname: "old.example", Rules: []config.HTTPRule{rule("HTTPRoute/a/shop", "/", "a/own:80")}}}},
		},
		Routes: []config.Route{{Name: "TLSRoute/a/l4", Backends: []config.BackendRef{{Backend: "b/revoked:443", Weight: 1}}},
			{Name: "TLSRoute/b/detached", Backends: []config.BackendRef{{Backend: "b/theirs:443", Weight: 1}}}},
		Backends:     backends("a/own:80", "b/revoked:443", "b/revoked:80", "b/theirs:443", "b/theirs:80"),
		Certificates: certificates("a/one", "a/x", "b/revoked"),
	}
	next := &config.Snapshot{
		Listeners: []config.Listener{
			{Name: "a/gw/new", Port: 2, Protocol: config.TCP},
			{Name: "a/gw/refused", Port: 443, Protocol: config.TLS, Hostname: "x.example", TLS: &config.ListenerTLS{}, NotServed: "a conflict"},
			{Name: "a/gw/tls", Port: 443, Protocol: config.TLS, TLS: tls("a/one"), L4: []config.HostRoute{
				{Hostname: "l4.example", Route: "TLSRoute/a/l4"}, {Hostname: "new.example", Route: "TLSRoute/a/l4"}}},
			{Name: "a/gw/web", Port: 80, Protocol: config.HTTP, HTTP: []config.HTTPHost{
				{Hostname: "new.example", Rules: []config.HTTPRule{rule("HTTPRoute/a/shop", "/", "a/own:80")}},
				{Hostname: "shop.example", Rules: []config.HTTPRule{rule("HTTPRoute/a/shop", "/", "a/own:80"), rule("HTTPRoute/a/large", "/l", "a/large:80")}}}},
		},
		Routes:       []config.Route{{Name: "TLSRoute/a/l4", Backends: []config.BackendRef{{Weight: 1}}}},
		Backends:     backends("a/large:80", "a/own:80"),
		Certificates: certificates("a/one"),
	}
	want := &config.Snapshot{
		Listeners: []config.Listener{next.Listeners[1],
			{Name: "a/gw/tls", Port: 443, Protocol: config.TLS, TLS: tls("a/one"), L4: []config.HostRoute{{Hostname: "l4.example", Route: "TLSRoute/a/l4"}}},
			{Name: "a/gw/web", Port: 80, Protocol: config.HTTP, HTTP: []config.HTTPHost{
				{Hostname: "shop.example", Rules: []config.HTTPRule{rule("HTTPRoute/a/shop", "/", "a/own:80", "")}}}}},
		Routes: next.Routes, Backends: backends("a/own:80"), Certificates: next.Certificates,
	}
	// What holds for all of them: both are valid, and nothing else is as good.
	for _, s := range []*config.Snapshot{before, next, want} {
		s.Sort()
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, before.Kept(next)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if same := next.Kept(next); same.Hash() != next.Hash() {
		t.Errorf("of a part and itself something is left out: %s", cmp.Diff(next, same))
	}
	closed := before.Closed(next, "too large")
	if err := closed.Validate(); err != nil {
		t.Error(err)
	}
	if n := len(closed.Listeners); n != 3 || len(closed.Routes)+len(closed.Backends)+len(closed.Certificates) > 0 {
		t.Errorf("what is closed has %d listeners, and more: %+v", n, closed)
	}
}
