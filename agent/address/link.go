// SPDX-License-Identifier: Apache-2.0

package address

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// link is what there is to know of one.
type link struct {
	name    string
	mac     net.HardwareAddr // nil where nobody resolves addresses
	carrier bool
	changes uint32 // how often the carrier came or went
	silent  string // why the kernel does not answer ARP for ours, "" when it does
}

// watchLinks tells of every change of a link. The channel is closed when that
// fails, and nil where it cannot begin: links are looked at every tick all the
// same. end ends it, and is called once.
func watchLinks() (changes <-chan netlink.LinkUpdate, end func()) {
	all, stop := make(chan netlink.LinkUpdate), make(chan struct{})
	if err := netlink.LinkSubscribe(all, stop); err != nil {
		return nil, func() {}
	}
	return all, func() {
		close(stop)
		for range all {
		}
	}
}

// inspect asks the kernel for a link; of one that is gone nothing is known.
func inspect(index int) (l link) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(index)
	req.AddData(head)
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil || len(messages) != 1 {
		return l
	}
	head = nl.DeserializeIfInfomsg(messages[0])
	attributes, err := nl.ParseRouteAttr(messages[0][head.Len():])
	if err != nil {
		return l
	}
	l.carrier = head.Flags&unix.IFF_LOWER_UP != 0
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(a.Value)
		case unix.IFLA_ADDRESS:
			if head.Type == unix.ARPHRD_ETHER && head.Flags&unix.IFF_NOARP == 0 && len(a.Value) == 6 {
				l.mac = a.Value
			}
		case unix.IFLA_CARRIER_CHANGES:
			l.changes = nl.NativeEndian().Uint32(a.Value)
		}
	}
	if l.mac != nil {
		l.silent = silence(l.name)
	}
	return l
}

// name is the name of a link, or its number when it is gone.
func name(index int) string {
	if l := inspect(index); l.name != "" {
		return l.name
	}
	return strconv.Itoa(index)
}

// silence says why the kernel does not answer ARP for an address of ours on a
// link, "" when it does.
func silence(link string) string {
	ignore := 0
	for _, conf := range []string{"all", link} {
		text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + conf + "/arp_ignore")
		if n, bad := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && bad == nil {
			ignore = max(ignore, n) // so does the kernel
		}
	}
	if ignore < 2 {
		return ""
	}
	return fmt.Sprintf("arp_ignore is %d, with which the kernel does not answer for it; set net.ipv4.conf.all.arp_ignore and net.ipv4.conf.%s.arp_ignore to 0 or 1", ignore, link)
}
