// SPDX-License-Identifier: Apache-2.0

package translate

import (
	"net/netip"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// taken are listeners by what others cannot have beside them. To ask for those that
// are in the way of one takes as long among many as among few.
type taken struct {
	order map[*listener]int // in which they came
	at    map[place]tenants
}

// place is a port of all of the node's addresses, or of one, or (some) of those that
// are named.
type place struct {
	port    gwv1.PortNumber
	udp     bool
	address netip.Addr
	some    bool
}

// tenants are those of a place: the first of each sharing, and of each host name.
type tenants struct {
	first map[sharing]*listener
	named map[sharedName]*listener
}

// sharing is how listeners are told apart on one port.
type sharing int

const (
	alone sharing = iota // not at all
	byHost
	byServerName
)

type sharedName struct {
	sharing
	hostname string
}

func (l *listener) sharing() sharing {
	switch {
	case l.spec.Protocol == gwv1.TCPProtocolType || l.spec.Protocol == gwv1.UDPProtocolType:
		return alone
	case l.encrypted():
		return byServerName
	}
	return byHost
}

// place is the listener's port, at whatever address.
func (l *listener) place() place {
	return place{port: l.spec.Port, udp: l.spec.Protocol == gwv1.UDPProtocolType}
}

// places are those where a listener is with the addresses of its Gateway.
func (l *listener) places() []place {
	p := l.place()
	if len(l.gateway.addresses) == 0 {
		return []place{p}
	}
	out := []place{{port: p.port, udp: p.udp, some: true}}
	for _, p.address = range l.gateway.addresses {
		out = append(out, p)
	}
	return out
}

func newTaken() *taken {
	return &taken{order: map[*listener]int{}, at: map[place]tenants{}}
}

// add puts a listener at places, behind those that are there.
func (t *taken) add(l *listener, places ...place) {
	t.order[l] = len(t.order)
	s := l.sharing()
	for _, p := range places {
		if t.at[p].first == nil {
			t.at[p] = tenants{map[sharing]*listener{}, map[sharedName]*listener{}}
		}
		if t.at[p].first[s] == nil {
			t.at[p].first[s] = l
		}
		if n := (sharedName{s, l.hostname}); t.at[p].named[n] == nil {
			t.at[p].named[n] = l
		}
	}
}

// first is the one of some that came first, nil when there is none.
func (t *taken) first(some ...*listener) (first *listener) {
	for _, o := range some {
		if o != nil && (first == nil || t.order[o] < t.order[first]) {
			first = o
		}
	}
	return first
}

// any is the first at a place.
func (t *taken) any(p place) *listener {
	at := t.at[p].first
	return t.first(at[alone], at[byHost], at[byServerName])
}

// unlike is the first at a place that cannot share the port with l.
func (t *taken) unlike(p place, l *listener) *listener {
	at := t.at[p].first
	switch l.sharing() {
	case byHost:
		return t.first(at[alone], at[byServerName])
	case byServerName:
		return t.first(at[alone], at[byHost])
	}
	return t.any(p)
}

// namesake is the first at a place that shares the port with l and has its name.
func (t *taken) namesake(p place, l *listener) *listener {
	return t.at[p].named[sharedName{l.sharing(), l.hostname}]
}

// inTheWay is the first that l cannot be served beside (clash).
func (t *taken) inTheWay(l *listener) *listener {
	p := l.place()
	if len(l.gateway.addresses) == 0 {
		return t.first(t.unlike(p, l), t.namesake(p, l), t.any(place{port: p.port, udp: p.udp, some: true}))
	}
	found := t.any(p)
	for _, p.address = range l.gateway.addresses {
		found = t.first(found, t.unlike(p, l), t.namesake(p, l))
	}
	return found
}
