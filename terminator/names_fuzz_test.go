// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/agent/config"
)

// modelFind is find as the Gateway API says it, one host name after the other:
// an exact name before a wildcard, of wildcards the one with most labels, and
// the empty host name for whatever is left.
func modelFind(hostnames []string, name string) (best string, ok bool) {
	labels := func(s string) []string { return strings.Split(s, ".") }
	under := func(h string) bool {
		switch {
		case h == "":
			return true
		case name == "" || len(name) > longestName:
			return false
		case !strings.HasPrefix(h, "*."):
			return h == name
		}
		// One label or more in place of the asterisk, which are not all empty.
		suffix, all := labels(h)[1:], labels(name)
		n := len(all) - len(suffix)
		return n > 0 && slices.Equal(all[n:], suffix) && strings.Join(all[:n], ".") != ""
	}
	rank := func(h string) int {
		switch {
		case h == "":
			return 0
		case strings.HasPrefix(h, "*."):
			return len(labels(h))
		}
		return 1 << 20
	}
	for _, h := range hostnames {
		if under(h) && (!ok || rank(h) > rank(best)) {
			best, ok = h, true
		}
	}
	return best, ok
}

// FuzzNames compares the lookup of a server name with the model.
func FuzzNames(f *testing.F) {
	all := "db.example.com\n*.example.com\n*.b.example.com\n"
	for _, sni := range []string{"", "db.example.com", "DB.example.com.", "x.example.com", "x.y.b.example.com", ".b.example.com", "b.example.com",
		"example.com", "*.b.example.com", "..example.com", "127.0.0.1", "[::1]", "xn--bcher-kva.example.com", strings.Repeat("a.", 130) + "example.com"} {
		f.Add(all, sni)
		f.Add(strings.TrimSuffix(all, "\n"), sni)
	}
	f.Add("*.com\n*.a\n*.a.com\na.com", "a.a.com")
	f.Add("*.\n.", "..")
	f.Fuzz(func(t *testing.T, lines, sni string) {
		var n names[string]
		var hostnames []string
		for _, h := range strings.Split(lines, "\n") {
			if validHostname(h) {
				n.add(h, h)
				hostnames = append(hostnames, h)
			}
		}
		name := normalName(sni)
		want, wantOK := modelFind(hostnames, name)
		if got, ok := n.find(name); got != want || ok != wantOK {
			t.Errorf("%q among %q: %q, %t; want %q, %t", name, hostnames, got, ok, want, wantOK)
		}
		// What the translator matches routes by, it must match alike.
		if len(name) > longestName {
			return
		}
		for _, h := range hostnames {
			if _, want := modelFind([]string{h}, name); config.MatchHostname(h, name) != want {
				t.Errorf("MatchHostname(%q, %q) is not %t", h, name, want)
			}
		}
	})
}

// validHostname tells whether a snapshot may have a host name.
func validHostname(h string) bool {
	s := config.Snapshot{Listeners: []config.Listener{{Name: "a/b/c", Addresses: loopback, Port: 443, Protocol: config.TLS, Hostname: h,
		TLS: &config.ListenerTLS{Passthrough: true}}}}
	return s.Validate() == nil
}
