// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

func TestAnAddressIsServedFromTheMomentThatItComes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	const size = 1 << 20
	four, six := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")
	to := backend(t, func(c half) {
		_ = keyed.Send(c, downKey, size, 64<<10)
		_ = c.CloseWrite()
		_ = strict(c)
	})
	snap := simple(443, certificateFor(t, "c", "a.example"), to)
	snap.Listeners[0].Addresses = []netip.Addr{four, six}
	named := *snap
	named.Addresses = []netip.Addr{four, six}
	for name, c := range map[string]struct {
		free    bool
		snap    *config.Snapshot
		problem string
	}{
		"neither":                 {false, snap, "cannot assign requested address"},
		"FreeBind":                {true, snap, ""},
		"an address of Addresses": {false, &named, ""},
		"an address of both":      {true, &named, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ns, err := netns.New()
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			g := run(t, &Server{FreeBind: c.free}, &config.Snapshot{})
			// Sockets belong to the namespace that they are opened in.
			var report config.Report
			_ = ns.Do(func() error { report = g.s.Apply(c.snap); return nil })
			if got := report.Listeners["l"]; (got == "") != (c.problem == "") || !strings.Contains(got, c.problem) {
				t.Fatalf("report %q, want %q", got, c.problem)
			}
			if c.problem != "" {
				return
			}
			for _, a := range c.snap.Listeners[0].Addresses {
				conn := arrive(t, ns, a)
				if err := keyed.Receive(conn, downKey, size); err != nil {
					t.Errorf("%s: %v", a, err)
				}
				conn.Close()
			}
		})
	}
}

// arrive connects to an address in vain, gives it to the loopback link of the
// namespace, and connects.
func arrive(t *testing.T, ns *netns.NS, a netip.Addr) *tls.Conn {
	t.Helper()
	var conn net.Conn
	at := netip.AddrPortFrom(a, 443).String()
	err := ns.Do(func() error {
		if c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", at); err == nil {
			c.Close()
			t.Errorf("%s is there before it came", a)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: 0x02} // IFA_F_NODAD
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return err
		}
		// The kernel makes the route of an IPv6 address a moment later.
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
			conn, err = (&net.Dialer{}).DialContext(context.Background(), "tcp", at)
			if !errors.Is(err, unix.ENETUNREACH) || time.Now().After(deadline) {
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return tls.Client(conn, client("a.example"))
}
