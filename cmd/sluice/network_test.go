// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/figures"
)

// lose has an nftables rule drop TCP packets.
func lose(which string) []string {
	return []string{"nft", "table inet loss { chain in { type filter hook input priority 0; meta l4proto tcp " + which + " counter drop; }; }"}
}

// T40: connections live through networks that lose packets, are slow, have small
// packets, or let nothing through for a while: both legs have them. Every byte arrives,
// in order. 30 s of nothing with SLUICE_LONG set.
func TestBadNetworksLoseNoByte(t *testing.T) {
	clients, size, hole := 4, int64(64<<10), 2*time.Second
	if full {
		clients, size, hole = 20, 256<<10, 30*time.Second
	}
	for _, network := range []struct {
		name         string
		begin, later []string // commands in the namespace, when clients are connected
		after        time.Duration
		what         string // of the packets that it counts last
	}{
		{"1 % loss", lose("numgen random mod 100 < 1"), nil, 0, "packets dropped"},
		{"10 % loss", lose("numgen random mod 100 < 10"), nil, 0, "packets dropped"},
		{"1 Mbit a second", []string{"tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst", "64kb", "latency", "400ms"}, nil, 0, "packets waited"},
		// One segment a packet: loopback's are larger than its MTU otherwise.
		{"packets of 576 bytes", []string{"sh", "-c", "ip link set lo mtu 576 gso_max_segs 1 && nft '" +
			"table inet seen { chain in { type filter hook input priority 0; meta length > 576 counter drop; meta length > 500 counter; }; }'"}, nil, 0, "packets of 500 to 576 bytes"},
		{"nothing for a while", lose(""), []string{"nft", "flush ruleset"}, hole, "packets dropped"},
	} {
		for _, splice := range []string{"auto", "off"} {
			t.Run(network.name+"/splice "+splice, func(t *testing.T) {
				needRoot(t)
				t.Parallel() // they wait most of the time
				each := size
				if network.name == "1 Mbit a second" {
					each = size / 8 // all of them share it, over both legs
				}
				count := &figures.Figures{Connections: int64(clients), Bytes: int64(clients) * (exchangeSize + each)}
				figures.Record(t, count)
				ns := newNS(t)
				g := launchIn(t, ns, splice)
				var all []*echoing
				for i := range clients {
					err := ns.Do(func() error {
						c, err := g.echoingAs(serverName, net.IPv4(127, 1, 1, byte(i)))
						if err == nil {
							_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
							all = append(all, c)
							err = c.exchange(exchangeSize)
						}
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				began := time.Now()
				inside(t, ns, "ip", "link", "set", "lo", "mtu", "1500") // not one packet for everything
				inside(t, ns, network.begin...)
				var wg sync.WaitGroup
				for i, c := range all {
					wg.Go(func() {
						err := c.exchange(each)
						if splice == "auto" && i == 0 && !strings.Contains(g.conns(), `"spliced"`) {
							t.Error("no connection is spliced")
						}
						if err := errors.Join(err, c.finish()); err != nil {
							t.Errorf("connection %d, after %v: %v", i, time.Since(began).Round(time.Millisecond), err)
						}
					})
				}
				if network.later != nil {
					time.Sleep(network.after)
					count.Faults = ruled(t, ns)
					inside(t, ns, network.later...)
				}
				wg.Wait()
				took := time.Since(began).Round(10 * time.Millisecond)
				if network.later == nil {
					count.Faults = ruled(t, ns)
				}
				if count.Faults == 0 && network.name != "1 % loss" { // few of few may be none
					t.Errorf("0 %s", network.what)
				}
				count.What = fmt.Sprintf("%s; in %v", network.what, took)
				t.Log(count.Faults, count.What)
			})
		}
	}
}

// ruled is the last number of packets of the rules in a namespace, or how many had to
// wait in its queue.
func ruled(t *testing.T, ns *netns.NS) (n int64) {
	t.Helper()
	text, before := inside(t, ns, "nft", "list", "ruleset"), "counter packets "
	if !strings.Contains(text, before) {
		text, before = inside(t, ns, "tc", "-s", "qdisc", "show", "dev", "lo"), "overlimits "
	}
	if _, err := fmt.Sscan(text[strings.LastIndex(text, before)+len(before):], &n); err != nil {
		t.Errorf("%v in %q", err, text)
	}
	return n
}

// A connection to a backend survives the loss of all packets of its first three seconds:
// two, or three where the kernel sends one each second at first.
func TestLostSYNsAreNoFailure(t *testing.T) {
	needRoot(t)
	t.Parallel() // it waits
	lost := 2
	if linear, err := os.ReadFile("/proc/sys/net/ipv4/tcp_syn_linear_timeouts"); err == nil && strings.TrimSpace(string(linear)) != "0" {
		lost = 3
	}
	ns := newNS(t)
	g := launchIn(t, ns, "off")
	connect := func() error {
		inside(t, ns, "nft", "flush ruleset")
		inside(t, ns, lose(fmt.Sprintf("tcp dport != %s tcp flags & (syn | ack) == syn numgen inc mod %d < %d", g.port, lost+1, lost))...)
		var c *echoing
		err := ns.Do(func() (err error) { c, err = g.echoing(); return err })
		if err == nil {
			err = errors.Join(c.exchange(exchangeSize), c.finish())
		}
		if rules := inside(t, ns, "nft", "list", "ruleset"); err == nil && !strings.Contains(rules, fmt.Sprintf("counter packets %d ", lost)) {
			t.Errorf("%d packets should have been lost: %s", lost, rules)
		}
		return err
	}
	err := connect()
	for try := 1; try < 3 && err != nil; try++ { // a machine that is busy may lose another second
		err = connect()
	}
	if err != nil {
		t.Error(err)
	}
}

// inside runs a command in a network namespace.
func inside(t *testing.T, ns *netns.NS, command ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + ns.Path(os.Getpid())}, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", command, err, out)
	}
	return string(out)
}
