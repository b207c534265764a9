// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
)

// Sort brings the parts into their one order: everything by name, addresses
// by value, host names most specific first. Orders that carry a meaning
// (certificates of a listener, HTTP rules, ALPN, backends of a route) stay.
func (s *Snapshot) Sort() {
	slices.SortFunc(s.Listeners, func(a, b Listener) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Routes, func(a, b Route) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Backends, func(a, b Backend) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Certificates, func(a, b Certificate) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Addresses, netip.Addr.Compare)
	slices.SortFunc(s.Authorities, func(a, b Authority) int { return cmp.Compare(a.Name, b.Name) })
	for i := range s.Listeners {
		l := &s.Listeners[i]
		slices.SortFunc(l.Addresses, netip.Addr.Compare)
		slices.SortFunc(l.L4, func(a, b HostRoute) int { return CompareHostnames(a.Hostname, b.Hostname) })
		if l.TLS != nil && l.TLS.ClientValidation != nil {
			slices.Sort(l.TLS.ClientValidation.Authorities)
		}
		slices.SortFunc(l.HTTP, func(a, b HTTPHost) int { return CompareHostnames(a.Hostname, b.Hostname) })
	}
	for i := range s.Backends {
		slices.SortFunc(s.Backends[i].Endpoints, func(a, b Endpoint) int {
			return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
		})
		if t := s.Backends[i].TLS; t != nil {
			slices.SortFunc(t.SubjectAltNames, func(a, b SubjectAltName) int {
				return cmp.Or(cmp.Compare(a.Hostname, b.Hostname), cmp.Compare(a.URI, b.URI))
			})
			slices.Sort(t.Authorities)
		}
	}
}

// Hash identifies the content, private keys included, without giving any of
// it away: 64 hex digits of SHA-256. The snapshot must be sorted.
func (s *Snapshot) Hash() string {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(s); err != nil {
		panic("config: a snapshot is plain data: " + err.Error())
	}
	for _, c := range s.Certificates {
		sum := sha256.Sum256(c.Key)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// CompareHostnames orders host names by precedence: exact names first, then
// wildcards with the most labels first, then "". Equals sort by name.
func CompareHostnames(a, b string) int {
	return cmp.Or(cmp.Compare(hostnameRank(a), hostnameRank(b)), cmp.Compare(labels(b), labels(a)), cmp.Compare(a, b))
}

func hostnameRank(h string) int {
	switch {
	case h == "":
		return 2
	case strings.HasPrefix(h, "*."):
		return 1
	}
	return 0
}

func labels(h string) int { return strings.Count(h, ".") }

// MatchHostname tells whether name (lower case, no trailing dot; "" when the
// client sent none) falls under pattern, which has the form of
// Listener.Hostname.
func MatchHostname(pattern, name string) bool {
	if pattern == "" {
		return true
	}
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(name) > len(suffix) && strings.HasSuffix(name, suffix)
	}
	return pattern == name
}
