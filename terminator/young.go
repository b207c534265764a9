// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"container/heap"
	"container/list"
	"net/netip"
)

// young are the connections in a TLS handshake, by where they come from. The zero value
// is ready.
type young struct {
	byPlace map[netip.Prefix]*crowd
	crowds  crowds
}

// crowd are those that come from one place.
type crowd struct {
	place   netip.Prefix
	members list.List // of *connection, oldest first
	index   int       // in young.crowds
}

func (y *young) add(c *connection, client netip.Addr) {
	p := place(client)
	if c.crowd = y.byPlace[p]; c.crowd == nil {
		if y.byPlace == nil {
			y.byPlace = map[netip.Prefix]*crowd{}
		}
		c.crowd = &crowd{place: p}
		y.byPlace[p] = c.crowd
		heap.Push(&y.crowds, c.crowd)
	}
	c.young = c.crowd.members.PushBack(c)
	heap.Fix(&y.crowds, c.crowd.index)
}

// remove does nothing for one that is not young any more.
func (y *young) remove(c *connection) {
	if c.crowd == nil {
		return
	}
	c.crowd.members.Remove(c.young)
	if c.crowd.members.Len() == 0 {
		heap.Remove(&y.crowds, c.crowd.index)
		delete(y.byPlace, c.crowd.place)
	} else {
		heap.Fix(&y.crowds, c.crowd.index)
	}
	c.crowd, c.young = nil, nil
}

// oldest returns the connection that is in its handshake for longest of those from where
// the most come, or nil: a flood makes room for itself.
func (y *young) oldest() *connection {
	if len(y.crowds) == 0 {
		return nil
	}
	return y.crowds[0].members.Front().Value.(*connection)
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
