// SPDX-License-Identifier: Apache-2.0

// Package netns makes network namespaces for tests, the demonstration and the
// benchmark: hosts of their own on one machine. It needs root.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// NS is a network namespace with its loopback link up. It has no name in the
// file system: it ends when it is closed and nothing runs in it any more.
type NS struct {
	handle netns.NsHandle
}

// New makes a namespace. The caller closes it.
func New() (*NS, error) {
	ns := &NS{handle: netns.None()}
	err := onThread(func() error {
		h, err := netns.New() // leaves the thread inside
		if err != nil {
			return fmt.Errorf("new network namespace: %w (it needs root)", err)
		}
		ns.handle = h
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("network namespace: loopback: %w", err)
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// Close lets go of the namespace.
func (ns *NS) Close() error {
	if !ns.handle.IsOpen() {
		return nil
	}
	return ns.handle.Close()
}

// Do runs f inside the namespace and returns its error. Sockets that f opens
// stay in the namespace; goroutines that f starts do not run in it.
func (ns *NS) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// Path names the namespace for other programs of this process's children,
// like "nsenter --net=PATH", as long as the process lives.
func (ns *NS) Path(pid int) string { return fmt.Sprintf("/proc/%d/fd/%d", pid, int(ns.handle)) }

// Listen listens on a TCP address inside the namespace, without MPTCP.
func (ns *NS) Listen(network, address string) (l net.Listener, err error) {
	err = ns.Do(func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err = lc.Listen(context.Background(), network, address)
		return err
	})
	return l, err
}

// onThread runs f on a thread of its own that is never used again, so that no
// other goroutine meets a thread in the wrong namespace.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	return <-done
}

// Veth joins two namespaces with a pair of links, name in a and name with a "p"
// at its end in b, each with the addresses given for its side, and waits for
// nothing: IPv6 addresses are usable at once (no duplicate address detection).
// A nil namespace is the caller's own.
func Veth(a, b *NS, name string, addrsA, addrsB []netip.Prefix) error {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add veth pair %s: %w", name, err)
	}
	for _, end := range []struct {
		ns    *NS
		name  string
		addrs []netip.Prefix
	}{{b, name + "p", addrsB}, {a, name, addrsA}} {
		if err := setUp(end.ns, end.name, end.addrs); err != nil {
			return errors.Join(err, netlink.LinkDel(link))
		}
	}
	return nil
}

func setUp(ns *NS, name string, addrs []netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	do := func(f func() error) error { return f() }
	if ns != nil {
		if err := netlink.LinkSetNsFd(l, int(ns.handle)); err != nil {
			return fmt.Errorf("move link %s: %w", name, err)
		}
		do = ns.Do
	}
	return do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
		for _, p := range addrs {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
			if p.Addr().Is6() {
				a.Flags = 0x02 // IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, a); err != nil {
				return fmt.Errorf("add address %s to link %s: %w", p, name, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
}
