// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/figures"
)

// T40: a wire between the client and the gateway, and another between the gateway and the
// backend, deliver packets late, after later ones, and more than once. Every byte
// arrives, in order, also where it is spliced past the second wire.
func TestPacketsThatAreLateOvertakenOrTwiceLoseNoByte(t *testing.T) {
	clients, size := 4, int64(64<<10)
	if full {
		clients, size = 20, 1<<20
	}
	for _, network := range []struct {
		name string
		traits
	}{
		{"100 ms late", traits{delay: 100 * time.Millisecond}},
		{"every 10th overtaken", traits{delay: 2 * time.Millisecond, late: 10}},
		{"every 10th twice", traits{delay: 2 * time.Millisecond, twice: 10}},
		{"late and overtaken and twice", traits{delay: 25 * time.Millisecond, late: 5, twice: 7}},
	} {
		for _, splice := range []string{"auto", "off"} {
			t.Run(network.name+"/splice "+splice, func(t *testing.T) {
				needRoot(t)
				t.Parallel() // they wait most of the time
				count := &figures.Figures{Connections: int64(clients), Bytes: int64(clients) * size}
				figures.Record(t, count)
				outside, ns, behind := newNS(t), newNS(t), newNS(t)
				front := newWire(t, outside, ns, "10.0.1.1/24", "10.0.1.2/24", network.traits)
				back := newWire(t, ns, behind, "10.0.2.1/24", "10.0.2.2/24", network.traits)
				g := launchAcross(t, ns, behind, splice)
				began := time.Now()
				var wg sync.WaitGroup
				for i := range clients {
					wg.Go(func() {
						if err := outside.Do(func() error { return g.across(size) }); err != nil {
							t.Errorf("connection %d, after %v: %v", i, time.Since(began).Round(time.Millisecond), err)
						}
					})
				}
				wg.Wait()
				took := time.Since(began).Round(10 * time.Millisecond)
				spliced := allCounts(t, clientIn(ns), "127.0.0.1:9464")[`sluice_splice_outcomes_total{outcome="spliced"}`]
				if splice == "auto" && spliced < float64(clients) {
					t.Errorf("%v of %d connections were spliced", spliced, clients)
				}
				packets := front.seen().and(back.seen())
				if network.late > 0 && packets.overtaken == 0 || network.twice > 0 && packets.twice == 0 {
					t.Errorf("the wires did not do what they are for: %v", packets)
				}
				count.Faults, count.What = packets.overtaken+packets.twice, fmt.Sprintf("%v; %v late each way; in %v", packets, network.delay, took)
				t.Log(count.What)
			})
		}
	}
}

// launchAcross is launchIn with a backend in another namespace, each at the far end of
// a wire.
func launchAcross(t *testing.T, ns, behind *netns.NS, splice string) *gateway {
	t.Helper()
	l, err := behind.Listen("tcp", "10.0.2.2:0")
	if err != nil {
		t.Fatal(err)
	}
	done := serveEcho(l)
	t.Cleanup(func() { l.Close(); <-done })
	g := newGateway(t)
	g.write("objects.json", []byte(strings.NewReplacer(`"value": "127.0.0.1"`, `"value": "10.0.1.2"`, `["127.0.0.1"]`, `["10.0.2.2"]`).
		Replace(string(objects(g.port, port(l.Addr()))))))
	g.startIn(ns, splice)
	eventually(t, "the gateway listens", func() bool {
		return ns.Do(func() error {
			c, err := net.Dial("tcp", "10.0.1.2:"+g.port)
			if err == nil {
				c.Close()
			}
			return err
		}) == nil
	})
	return g
}

// across is a client beyond the wire, with a stream of n bytes that comes back.
func (g *gateway) across(n int64) error {
	raw, err := net.Dial("tcp", "10.0.1.2:"+g.port)
	if err != nil {
		return err
	}
	_ = raw.SetDeadline(time.Now().Add(5 * time.Minute))
	c, err := echoingOver(raw, serverName)
	if err != nil {
		return err
	}
	defer c.Close()
	return errors.Join(c.exchange(n), c.finish())
}

// traits are what a wire does to packets, in each direction.
type traits struct {
	delay time.Duration
	// Every so many-th packet takes twice the delay and 10 ms, so later ones overtake
	// it, or goes both ways; 0 is none.
	late, twice int
}

// wire joins two namespaces as netem would, which not every kernel has: by a TUN device
// in each, and what one sends this process gives to the other.
type wire struct {
	traits
	mu      sync.Mutex
	packets packets
}

// packets are those that a wire has delivered.
type packets struct{ all, overtaken, twice int64 }

func (p packets) and(q packets) packets {
	return packets{p.all + q.all, p.overtaken + q.overtaken, p.twice + q.twice}
}

func (p packets) String() string {
	return fmt.Sprintf("of %d packets %d overtaken, %d twice", p.all, p.overtaken, p.twice)
}

// newWire joins two namespaces until the test ends. The addresses are those of its ends,
// with the length of their network.
func newWire(t *testing.T, a, b *netns.NS, addressA, addressB string, does traits) *wire {
	t.Helper()
	w := &wire{traits: does}
	endA, endB := tun(t, a, addressA), tun(t, b, addressB)
	var wg sync.WaitGroup
	wg.Go(func() { w.carry(endA, endB) })
	wg.Go(func() { w.carry(endB, endA) })
	t.Cleanup(func() { endA.Close(); endB.Close(); wg.Wait() })
	return w
}

// tun makes a TUN device with an address. It goes when the file is closed.
func tun(t *testing.T, ns *netns.NS, address string) *os.File {
	t.Helper()
	p := netip.MustParsePrefix(address)
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun%d"}, Mode: netlink.TUNTAP_MODE_TUN,
		Flags: netlink.TUNTAP_NO_PI, Queues: 1, NonPersist: true}
	err := ns.Do(func() error {
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		return errors.Join(
			netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}),
			netlink.LinkSetUp(link))
	})
	if err != nil {
		for _, f := range link.Fds {
			f.Close()
		}
		t.Fatalf("TUN device: %v", err)
	}
	return link.Fds[0]
}

// carry takes packets from one end to the other until the first is closed. Those of a
// lane stay in order.
func (w *wire) carry(from, to *os.File) {
	type packet struct {
		number int64
		again  bool // has gone the straight way, too
		due    time.Time
		bytes  []byte
	}
	var last int64 // that was delivered; guarded by w.mu
	var wg sync.WaitGroup
	defer wg.Wait()
	lane := func() chan<- packet {
		c := make(chan packet, 1<<14)
		wg.Go(func() {
			for p := range c {
				time.Sleep(time.Until(p.due))
				if _, err := to.Write(p.bytes); err != nil {
					continue // closed
				}
				w.mu.Lock()
				w.packets.all++
				if p.again {
					w.packets.twice++
				} else if p.number < last {
					w.packets.overtaken++
				}
				last = max(last, p.number)
				w.mu.Unlock()
			}
		})
		return c
	}
	straight, slow := lane(), lane()
	defer close(straight)
	defer close(slow)
	for n := int64(1); ; n++ {
		b := make([]byte, 1<<16)
		size, err := from.Read(b)
		if err != nil {
			return
		}
		now := time.Now()
		isLate, isTwice := w.late > 0 && n%int64(w.late) == 0, w.twice > 0 && n%int64(w.twice) == 0
		if isLate || isTwice {
			slow <- packet{n, isTwice, now.Add(2*w.delay + 10*time.Millisecond), b[:size]}
		}
		if !isLate || isTwice {
			straight <- packet{n, false, now.Add(w.delay), b[:size]}
		}
	}
}

func (w *wire) seen() packets {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.packets
}
