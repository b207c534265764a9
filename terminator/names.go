// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"iter"
	"net/netip"
	"strings"
)

// longestName is the length of the longest domain name in text form. Longer
// SNI names fall under the empty host name only.
const longestName = 253

// names finds the most specific host name (the form of config.Listener.Hostname)
// that a name falls under: exact, then the longest wildcard, then "".
type names[T any] struct {
	exact map[string]T
	wild  map[string]T // ".example.com" for "*.example.com"
	every *T
}

// add sets the value of a host name. The first one stays.
func (n *names[T]) add(hostname string, v T) {
	if n.exact == nil {
		n.exact, n.wild = map[string]T{}, map[string]T{}
	}
	m, key := n.exact, hostname
	if suffix, ok := strings.CutPrefix(hostname, "*"); ok {
		m, key = n.wild, suffix
	}
	switch _, taken := m[key]; {
	case hostname == "" && n.every == nil:
		n.every = &v
	case hostname != "" && !taken:
		m[key] = v
	}
}

// all yields the host names with their values.
func (n *names[T]) all() iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		for hostname, v := range n.exact {
			if !yield(hostname, v) {
				return
			}
		}
		for suffix, v := range n.wild {
			if !yield("*"+suffix, v) {
				return
			}
		}
		if n.every != nil {
			yield("", *n.every)
		}
	}
}

// find looks up a name as normalName gives it.
func (n *names[T]) find(name string) (v T, ok bool) {
	if name != "" && len(name) <= longestName {
		if v, ok = n.exact[name]; ok {
			return v, true
		}
		for i := 1; i < len(name); i++ {
			if name[i] != '.' {
				continue
			}
			if v, ok = n.wild[name[i:]]; ok {
				return v, true
			}
		}
	}
	if n.every != nil {
		return *n.every, true
	}
	return v, false
}

// normalName turns an SNI name into the form that host names have: lower case,
// without trailing dot. IP addresses are not names there (RFC 6066 section 3)
// and count as none.
func normalName(sni string) string {
	name := strings.ToLower(strings.TrimSuffix(sni, "."))
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return ""
	}
	return name
}
