// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// DefaultIdleTimeout ends sessions of listeners without an idle timeout of
// their own. It is the least that NATs must grant (RFC 4787, REQ-5).
const DefaultIdleTimeout = 2 * time.Minute

// oneWayTimeout ends sessions that no endpoint has answered yet, so that a
// flood of single datagrams does not stay for long. It is the kernel's own
// (net.netfilter.nf_conntrack_udp_timeout).
const oneWayTimeout = 30 * time.Second

// listener is a UDP listener with all that its rules depend on.
type listener struct {
	name      string
	addresses []netip.Addr // none: every address of the node
	port      uint16
	idle      time.Duration
	shares    []share
	// endpoints are those that sessions may be at, also of backends that get no
	// new ones (weight 0).
	endpoints map[netip.AddrPort]bool
}

// share is a part of the new sessions.
type share struct {
	weight uint32
	// backend and its endpoints, by value; none refuses the share.
	backend   string
	endpoints []netip.AddrPort
}

// plan reads the UDP listeners of a snapshot. Hosts that are no addresses are
// left out: names without an answer.
func plan(s *config.Snapshot) []listener {
	routes, backends := map[string]*config.Route{}, map[string]*config.Backend{}
	for i := range s.Routes {
		routes[s.Routes[i].Name] = &s.Routes[i]
	}
	for i := range s.Backends {
		backends[s.Backends[i].Name] = &s.Backends[i]
	}
	var out []listener
	for _, c := range s.Listeners {
		if c.Protocol != config.UDP {
			continue
		}
		l := listener{name: c.Name, addresses: c.Addresses, port: c.Port, idle: cmp.Or(c.IdleTimeout, DefaultIdleTimeout),
			endpoints: map[netip.AddrPort]bool{}}
		for _, hr := range c.L4 {
			for _, ref := range routes[hr.Route].Backends {
				sh := share{weight: uint32(ref.Weight), backend: ref.Backend}
				if b := backends[ref.Backend]; b != nil {
					sh.endpoints = addresses(b)
				}
				for _, e := range sh.endpoints {
					l.endpoints[e] = true
				}
				if sh.weight > 0 {
					l.shares = append(l.shares, sh)
				}
			}
		}
		out = append(out, l)
	}
	return out
}

func addresses(b *config.Backend) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range b.Endpoints {
		if a, err := netip.ParseAddr(e.Host); err == nil {
			out = append(out, netip.AddrPortFrom(a.Unmap(), e.Port))
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out)
}

// family returns the endpoints that clients of a family can reach.
func family(in []netip.AddrPort, is4 bool) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range in {
		if e.Addr().Is4() == is4 {
			out = append(out, e)
		}
	}
	return out
}

// slots is how many parts the clients of a backend with so many endpoints are
// divided into. Each part is at one endpoint.
func slots(endpoints int) int {
	if endpoints == 1 {
		return 1
	}
	return 1024
}

// spread gives each slot the endpoint with the highest score there
// (rendezvous hashing): when one goes, its slots and no others move; when one
// comes, it takes its share from all.
func spread(endpoints []netip.AddrPort) []netip.AddrPort {
	seeds := make([]uint64, len(endpoints))
	for i, e := range endpoints {
		sum := sha256.Sum256([]byte(e.String()))
		seeds[i] = binary.BigEndian.Uint64(sum[:])
	}
	out := make([]netip.AddrPort, slots(len(endpoints)))
	for slot := range out {
		best := uint64(0)
		for i, seed := range seeds {
			if score := mix(seed ^ uint64(slot)*0x9e3779b97f4a7c15); score >= best {
				best, out[slot] = score, endpoints[i]
			}
		}
	}
	return out
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
