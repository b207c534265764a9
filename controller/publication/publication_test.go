// SPDX-License-Identifier: Apache-2.0

package publication_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/publication"
)

func part() *config.Snapshot {
	return &config.Snapshot{
		Listeners: []config.Listener{{Name: "shop/gw/redis", Port: 443, Protocol: config.TLS, Hostname: "redis.example.com",
			TLS: &config.ListenerTLS{Certificates: []string{"shop/redis"}}, L4: []config.HostRoute{{Hostname: "redis.example.com", Route: "TLSRoute/shop/redis"}}}},
		Routes:       []config.Route{{Name: "TLSRoute/shop/redis", Backends: []config.BackendRef{{Backend: "shop/redis:6379", Weight: 1}}}},
		Backends:     []config.Backend{{Name: "shop/redis:6379", Service: &config.Service{Namespace: "shop", Name: "redis", Number: 6379}}},
		Certificates: []config.Certificate{{Name: "shop/redis", Chain: []byte("chain"), Key: config.Secret("s3cr3t")}},
	}
}

func TestAPartComesBackAsItWas(t *testing.T) {
	want := part()
	s, err := publication.Encode("sluice-system", "shop/gw", want)
	if err != nil {
		t.Fatal(err)
	}
	again, err := publication.Encode("sluice-system", "shop/gw", part())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, again); diff != "" {
		t.Errorf("equal parts give different Secrets: %s", diff)
	}
	got, err := publication.Decode(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !bytes.Equal(got.Certificates[0].Key, []byte("s3cr3t")) {
		t.Error("the key did not come along")
	}
	if g := publication.GatewayOf(s); g != "shop/gw" {
		t.Errorf("of Gateway %q", g)
	}
}

func TestWhatIsNotAsItWasPublishedIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*config.Snapshot)
		spoil  func(data map[string][]byte)
		want   string
	}{
		"an invalid part":           {change: func(s *config.Snapshot) { s.Routes = nil }, want: "route TLSRoute/shop/redis does not exist"},
		"listeners of another":      {change: func(s *config.Snapshot) { s.Listeners[0].Name = "other/gw/redis" }, want: "it has listeners of Gateway other/gw"},
		"a key that was exchanged":  {spoil: func(d map[string][]byte) { d["keys.json"] = []byte(`{"shop/redis":"b3RoZXI="}`) }, want: "its hash is not the one"},
		"keys that cannot be read":  {spoil: func(d map[string][]byte) { d["keys.json"] = []byte("s3cr3t") }, want: "its keys cannot be read"},
		"a snapshot that is no zip": {spoil: func(d map[string][]byte) { d["snapshot.json.gz"] = []byte("{}") }, want: "unpack: "},
	} {
		t.Run(name, func(t *testing.T) {
			p := part()
			if c.change != nil {
				c.change(p)
			}
			s, err := publication.Encode("sluice-system", "shop/gw", p)
			if err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				c.spoil(s.Data)
			}
			_, err = publication.Decode(s)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("the error has the key: %v", err)
			}
		})
	}
}

func TestMoreThanASecretHoldsIsAnErrorWithTheCure(t *testing.T) {
	p := part()
	chain := make([]byte, 2<<20)
	for i := range chain {
		chain[i] = byte(i * i >> 3 * i >> 5)
	}
	p.Certificates[0].Key = config.Secret(chain)
	_, err := publication.Encode("sluice-system", "shop/gw", p)
	if err == nil || !strings.Contains(err.Error(), "split it into several Gateways") {
		t.Errorf("error %v", err)
	}
}

func TestANodeComesBackAsItWas(t *testing.T) {
	want := publication.Node{Name: "n1", Holder: "pod-1", Renewed: time.Unix(1, 2000).UTC(), Lasts: 10 * time.Second, Version: "1", Serves: 42,
		Failures: map[string]string{"shop/gw/redis": "port in use"}, Stale: map[string]string{"a/b": "c"},
		Empty:     map[string]string{"shop/redis:6379": "none is ready"},
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Draining: true}
	l, err := publication.EncodeNode("sluice-system", want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := publication.DecodeNode(l)
	if err != nil {
		t.Fatal(err)
	}
	got.Renewed = got.Renewed.UTC()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for i := range 10_000 {
		want.Failures[fmt.Sprintf("shop/gw/%d", i)] = strings.Repeat("x", 100)
		want.Empty[fmt.Sprintf("shop/%d:1", i)] = strings.Repeat("x", 100)
	}
	if l, err = publication.EncodeNode("sluice-system", want); err != nil {
		t.Fatal(err)
	}
	again, err := publication.EncodeNode("sluice-system", want)
	if diff := cmp.Diff(l.Annotations, again.Annotations); err != nil || diff != "" {
		t.Errorf("of the same report (%v):\n%s", err, diff)
	}
	for _, a := range l.Annotations {
		if len(a) > 256<<10 {
			t.Errorf("annotation of %d bytes", len(a))
		}
	}
}
