// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket holds an address and port. Datagrams for it are translated before
// they would get here.
type socket struct {
	conn *net.UDPConn
	done chan struct{}
}

// sockets are where a listener listens; the zero Addr is every address.
func (l *listener) sockets() []netip.AddrPort {
	if len(l.addresses) == 0 {
		return []netip.AddrPort{netip.AddrPortFrom(netip.Addr{}, l.port)}
	}
	var out []netip.AddrPort
	for _, a := range l.addresses {
		out = append(out, netip.AddrPortFrom(a, l.port))
	}
	return out
}

// hold opens the sockets of the wanted listeners and closes all others. It
// returns the listeners that have theirs, and the problems of the rest. f.mu is
// held.
func (f *Forwarder) hold(problems map[string]string) (served []listener) {
	wanted := map[netip.AddrPort]bool{}
	for _, l := range f.want {
		for _, at := range l.sockets() {
			wanted[at] = true
		}
	}
	for at, s := range f.sockets {
		if !wanted[at] {
			s.close()
			delete(f.sockets, at)
		}
	}
	for _, l := range f.want {
		var errs []error
		for _, at := range l.sockets() {
			if f.sockets[at] != nil {
				continue
			}
			s, err := f.open(at)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			f.sockets[at] = s
		}
		if err := errors.Join(errs...); err != nil {
			problems[l.name] = err.Error()
			continue
		}
		served = append(served, l)
	}
	return served
}

func (f *Forwarder) open(at netip.AddrPort) (*socket, error) {
	host := ""
	if at.Addr().IsValid() {
		host = at.Addr().String()
	}
	var lc net.ListenConfig
	if f.FreeBind || f.comes[at.Addr()] {
		lc.Control = freeBind
	}
	pc, err := lc.ListenPacket(context.Background(), "udp", net.JoinHostPort(host, fmt.Sprint(at.Port())))
	if err != nil {
		return nil, cured(err)
	}
	s := &socket{pc.(*net.UDPConn), make(chan struct{})}
	go s.watch(f.strays)
	return s, nil
}

// freeBind lets a socket hold an address that the node does not have yet
// (IP_FREEBIND, for IPv6 too).
func freeBind(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// watch tells of datagrams that come here, which none should.
func (s *socket) watch(strays chan<- struct{}) {
	defer close(s.done)
	var b [1]byte
	for {
		if _, _, err := s.conn.ReadFromUDPAddrPort(b[:]); errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case strays <- struct{}{}:
		default:
		}
	}
}

func (s *socket) close() {
	_ = s.conn.Close()
	<-s.done
}

// cured adds what to do about an address that cannot be had.
func cured(err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%w; another process has the port: ss -lunp names it", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w; ports below 1024 need CAP_NET_BIND_SERVICE or root", err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%w; the node has no such address: correct spec.addresses or add it to a link", err)
	}
	return err
}

// explain puts into words why the kernel does not take the rules.
func explain(err error) string {
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("UDP is served by nftables, which refuses: %s; give the process CAP_NET_ADMIN, or run it as root", err)
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EPROTONOSUPPORT):
		return fmt.Sprintf("UDP is served by nftables, which lacks something: %s; the kernel needs CONFIG_NF_TABLES_INET, "+
			"NF_CONNTRACK_LABELS, NF_CONNTRACK_TIMEOUT and NFT_CT, NFT_FIB_INET, NFT_HASH, NFT_MASQ, NFT_NAT, NFT_REJECT", err)
	}
	return "UDP is served by nftables: " + err.Error()
}

// unreachable says why datagrams for an endpoint would get lost on this node.
func unreachable(l *listener) string {
	local := localAddresses()
	loopbackOnly := len(l.addresses) > 0 && !slices.ContainsFunc(l.addresses, func(a netip.Addr) bool { return !a.IsLoopback() })
	for _, s := range l.shares {
		for _, e := range s.endpoints {
			a := e.Addr()
			switch {
			case a.IsLoopback() && loopbackOnly:
			case a.IsLoopback() && a.Is4() && !enabled("ipv4/conf/all/route_localnet"):
				return fmt.Sprintf("endpoint %s gets datagrams of this machine only; give the backend an address of the node, "+
					"or let others in with sysctl -w net.ipv4.conf.all.route_localnet=1", e)
			case a.IsLoopback() && a.Is6():
				return fmt.Sprintf("endpoint %s gets datagrams of this machine only; give the backend an address of the node", e)
			case a.IsLoopback() || slices.Contains(local, a):
			case a.Is4() && !enabled("ipv4/ip_forward"):
				return fmt.Sprintf("endpoint %s is on another host and this one forwards nothing; sysctl -w net.ipv4.ip_forward=1", e)
			case a.Is6() && !enabled("ipv6/conf/all/forwarding"):
				return fmt.Sprintf("endpoint %s is on another host and this one forwards nothing; sysctl -w net.ipv6.conf.all.forwarding=1", e)
			}
		}
	}
	return ""
}

func enabled(sysctl string) bool {
	b, err := os.ReadFile("/proc/sys/net/" + sysctl)
	return err != nil || strings.TrimSpace(string(b)) != "0" // cannot tell
}

func localAddresses() []netip.Addr {
	all, _ := net.InterfaceAddrs()
	var out []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}
