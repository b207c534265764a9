// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/sluice-gateway/sluice/agent/netns"
)

// stage is what all windows of a run share.
type stage struct {
	site                   Site // without Dir of a gateway, Listen and Metrics
	backend, load, spinner *child
}

// setStage starts what all windows share. cleanup is never nil and undoes what
// was done, also after an error.
func setStage(ctx context.Context, dir string) (s *stage, cleanup func() error, err error) {
	var undo []func() error
	cleanup = func() error {
		var errs []error
		for _, f := range slices.Backward(undo) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	s = &stage{site: Site{Dir: dir, ServerName: "bench.example.com"}}
	if s.site.certificate, s.site.key, err = newCertificate(s.site.ServerName); err != nil {
		return nil, cleanup, err
	}
	at := netip.MustParseAddr("127.0.0.1")
	var ns *netns.NS
	if os.Geteuid() == 0 {
		if ns, err = netns.New(); err != nil {
			return nil, cleanup, err
		}
		undo = append(undo, ns.Close)
		name := fmt.Sprintf("slb%d", os.Getpid())
		here, there := linkAddresses(os.Getpid())
		if err = netns.Veth(nil, ns, name, []netip.Prefix{here}, []netip.Prefix{there}); err != nil {
			return nil, cleanup, err
		}
		undo = append(undo, func() error { return removeLink(name) })
		at = there.Addr()
	} else {
		fmt.Fprintln(os.Stderr, "not root: the backend is on loopback instead of another network namespace")
	}
	for _, c := range []struct {
		part string
		ns   *netns.NS
		to   **child
	}{{"part:backend", ns, &s.backend}, {"part:load", nil, &s.load}, {"part:spin", nil, &s.spinner}} {
		if *c.to, err = startChild(ctx, c.part, c.ns); err != nil {
			return nil, cleanup, err
		}
		undo = append(undo, (*c.to).Close)
	}
	var spinning bool
	err = errors.Join(s.backend.send(at), s.backend.receive(&s.site.Backend), s.spinner.receive(&spinning))
	return s, cleanup, err
}

// linkAddresses are the two ends of the link to the backend, different ones for
// runs at the same time. RFC 2544 reserves 198.18.0.0/15 for benchmarks.
func linkAddresses(pid int) (here, there netip.Prefix) {
	subnet := uint16(pid) << 2 // of four addresses each
	end := func(host byte) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(subnet >> 8), byte(subnet) | host}), 30)
	}
	return end(1), end(2)
}

// removeLink removes a link at once: a namespace that ends does so later.
func removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}
