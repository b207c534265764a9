// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"container/heap"
	"container/list"
	"net/netip"
)

// young are the connections in a TLS handshake, by age and by where they come from. The
// zero value is ready.
type young struct {
	all     list.List // of *member, oldest first
	byPlace map[netip.Prefix]*crowd
	crowds  crowds
}

// crowd are those that come from one place.
type crowd struct {
	place   netip.Prefix
	members list.List // of *member, oldest first
	index   int       // in young.crowds
}

// member is a connection among the young.
type member struct {
	c         *connection
	crowd     *crowd
	among, in *list.Element // of all, and of the crowd
}

func (y *young) add(c *connection, client netip.Addr) {
	p := place(client)
	m := &member{c: c, crowd: y.byPlace[p]}
	if m.crowd == nil {
		if y.byPlace == nil {
			y.byPlace = map[netip.Prefix]*crowd{}
		}
		m.crowd = &crowd{place: p}
		y.byPlace[p] = m.crowd
		heap.Push(&y.crowds, m.crowd)
	}
	m.among, m.in = y.all.PushBack(m), m.crowd.members.PushBack(m)
	heap.Fix(&y.crowds, m.crowd.index)
	c.young = m
}

// remove does nothing for one that is not young any more.
func (y *young) remove(c *connection) {
	m := c.young
	if m == nil {
		return
	}
	c.young = nil
	y.all.Remove(m.among)
	m.crowd.members.Remove(m.in)
	if m.crowd.members.Len() == 0 {
		heap.Remove(&y.crowds, m.crowd.index)
		delete(y.byPlace, m.crowd.place)
	} else {
		heap.Fix(&y.crowds, m.crowd.index)
	}
}

// large is the part of the young, one in so many, from which on a crowd makes room for
// itself. Smaller ones are no flood from one place.
const large = 16

// first returns the connection that makes room, or nil: the one that is in its handshake
// for longest, of the largest crowd if that is large.
func (y *young) first() *connection {
	if y.all.Len() == 0 {
		return nil
	}
	oldest := y.all.Front()
	if largest := y.crowds[0]; largest.members.Len()*large > y.all.Len() {
		oldest = largest.members.Front()
	}
	return oldest.Value.(*member).c
}

// crowds is a heap (container/heap), the largest first.
type crowds []*crowd

func (h crowds) Len() int           { return len(h) }
func (h crowds) Less(i, j int) bool { return h[i].members.Len() > h[j].members.Len() }
func (h crowds) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements heap.Interface.
func (h *crowds) Push(x any) {
	c := x.(*crowd)
	c.index = len(*h)
	*h = append(*h, c)
}

// Pop implements heap.Interface.
func (h *crowds) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return c
}
