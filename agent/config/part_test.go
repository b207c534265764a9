// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-gateway/sluice/agent/config"
)

func TestPartsJoinToWhatTheyWere(t *testing.T) {
	s := good()
	s.Listeners = append(s.Listeners, config.Listener{Name: "b/other/redis", Port: 443, Protocol: config.TLS, Hostname: "redis.example.net",
		TLS: &config.ListenerTLS{Certificates: []string{"a/www"}}, L4: []config.HostRoute{{Hostname: "redis.example.net", Route: "TLSRoute/a/redis"}}})
	s.Sort()
	parts := s.Parts()
	if len(parts) != 2 {
		t.Fatalf("%d parts, want a/gw and b/other", len(parts))
	}
	other := parts["b/other"]
	if len(other.Listeners) != 1 || len(other.Routes) != 1 || len(other.Backends) != 1 || len(other.Certificates) != 1 {
		t.Errorf("a part has its listeners and what they refer to, got %+v", other)
	}
	var all []*config.Snapshot
	for name, p := range parts {
		if err := p.Validate(); err != nil {
			t.Errorf("part %s: %v", name, err)
		}
		all = append(all, p)
	}
	joined, left := config.Join(all)
	if len(left) > 0 {
		t.Errorf("left out: %v", left)
	}
	if diff := cmp.Diff(s, joined, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if joined.Hash() != s.Hash() {
		t.Error("the hash is another one")
	}
}

func TestJoinTakesTheNewerOfTwoDefinitions(t *testing.T) {
	part := func(gateway, hostname, host string) *config.Snapshot {
		return &config.Snapshot{
			Listeners: []config.Listener{{Name: gateway + "/redis", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Port: 443, Protocol: config.TLS,
				Hostname: hostname, TLS: &config.ListenerTLS{Passthrough: true}, L4: []config.HostRoute{{Hostname: hostname, Route: "TLSRoute/a/redis"}}}},
			Routes:   []config.Route{{Name: "TLSRoute/a/redis", Backends: []config.BackendRef{{Backend: "a/redis:1", Weight: 1}}}},
			Backends: []config.Backend{{Name: "a/redis:1", Endpoints: []config.Endpoint{{Host: host, Port: 1}}}},
		}
	}
	newer, older, same := part("a/new", "a.example.com", "10.0.0.2"), part("a/old", "b.example.com", "10.0.0.1"), part("a/same", "a.example.com", "10.0.0.1")
	s, left := config.Join([]*config.Snapshot{newer, older, same})
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	if got := s.Backends[0].Endpoints[0].Host; got != "10.0.0.2" {
		t.Errorf("endpoint %s, want that of the newer part", got)
	}
	want := map[string]string{"a/same/redis": `port 443 hostname "a.example.com" is also used by listener a/new/redis`}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left out: -want +got:\n%s", diff)
	}
}
