// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/terminator/balance"
	"github.com/sluice-gateway/sluice/terminator/httproute"
	"github.com/sluice-gateway/sluice/terminator/relay"
)

// maxCostly is how many endpoints may be waited for until their timeout, or may
// fail a TLS handshake. A refusal costs nothing, so every endpoint may refuse.
const maxCostly = 3

// dial connects from a local address, or nil for the kernel's choice.
type dial func(ctx context.Context, from *net.TCPAddr, network, address string) (net.Conn, error)

// connect gives a connection its backend leg: one endpoint after the other.
// end is empty on success, and the caller releases the endpoint then.
func (s *Server) connect(c *connection, route string, b *balance.Backend, d dial) (relay.Leg, *balance.Endpoint, relay.End, error) {
	c.set(func(k *known) {
		k.route = route
		if b != nil {
			k.backend = b.Name
		}
	})
	if b == nil {
		return nil, nil, endNoEndpoint, nil
	}
	start := time.Now()
	conn, e, err := s.dialBackend(s.kill, b, d)
	c.connected = time.Since(start)
	switch {
	case errors.Is(err, httproute.ErrNoEndpoint):
		return nil, nil, endNoEndpoint, nil
	case err != nil:
		return nil, nil, endConnect, err
	}
	leg, ok := conn.(relay.Leg)
	if !ok {
		_ = conn.Close()
		e.Release()
		return nil, nil, endConnect, fmt.Errorf("dial %s: %T has no CloseWrite and SetLinger", e.Address, conn)
	}
	c.set(func(k *known) { k.endpoint = e.Address })
	return leg, e, "", nil
}

// dialBackend connects to the first endpoint that answers.
func (s *Server) dialBackend(ctx context.Context, b *balance.Backend, d dial) (net.Conn, *balance.Endpoint, error) {
	var tried []*balance.Endpoint
	var errs []error
	for costly := 0; costly < maxCostly; {
		e := b.Pick(time.Now(), tried)
		if e == nil {
			break
		}
		began := time.Now()
		attempt, cancel := context.WithTimeout(ctx, s.ConnectTimeout)
		conn, err := s.dialFrom(attempt, d, e.Address)
		cancel()
		if err == nil {
			s.Metrics.choice(b.Name, "", time.Since(began))
			e.Works()
			return conn, e, nil
		}
		e.Release()
		cause := connectCause(err)
		s.Metrics.choice(b.Name, cause, 0)
		if call, ok := errors.AsType[*os.SyscallError](err); ok && call.Syscall == "bind" {
			err = fmt.Errorf("%w; see whether this node still has the addresses of -source-addresses", err)
		} else if errors.Is(err, syscall.EADDRNOTAVAIL) {
			// Another endpoint has ports of its own.
			errs = append(errs, fmt.Errorf("%w; this node has no local port left for that endpoint: widen net.ipv4.ip_local_port_range, add endpoints or -source-addresses, or keep connections for longer", err))
			tried = append(tried, e)
			continue
		}
		errs = append(errs, err)
		var secure *backendTLSError
		if cause == causeLocal || ctx.Err() != nil || errors.As(err, &secure) && secure.final {
			break
		}
		if cause == causeTimeout || cause == causeTLS {
			costly++
		}
		e.Failed(time.Now())
		tried = append(tried, e)
	}
	if len(errs) == 0 {
		return nil, nil, fmt.Errorf("backend %s: %w", b.Name, httproute.ErrNoEndpoint)
	}
	return nil, nil, fmt.Errorf("backend %s: %w", b.Name, errors.Join(errs...))
}

// dialFrom connects from one of the sources that has a local port left.
func (s *Server) dialFrom(ctx context.Context, d dial, address string) (conn net.Conn, err error) {
	from := []*net.TCPAddr{nil}
	if to, err := netip.ParseAddrPort(address); err == nil && len(s.Sources) > 0 {
		var fit []*net.TCPAddr
		for _, a := range s.Sources {
			if a = a.Unmap(); a.Is4() == to.Addr().Unmap().Is4() {
				fit = append(fit, net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
			}
		}
		if len(fit) > 0 {
			from = fit
		}
	}
	first := rand.IntN(len(from))
	for i := range from {
		conn, err = d(ctx, from[(first+i)%len(from)], "tcp", address)
		if !errors.Is(err, syscall.EADDRNOTAVAIL) {
			break
		}
	}
	return conn, err
}

// Causes of a failed connect, a metric label.
const (
	causeRefused     = "refused"
	causeTimeout     = "timeout"
	causeUnreachable = "unreachable"
	causeLocal       = "local" // this node has no descriptor, port or memory left
	causeTLS         = "tls"   // no TLS connection: a certificate that does not verify, no common version, no TLS at all
	causeOther       = "other"
)

func connectCause(err error) string {
	var name *net.DNSError
	var secure *backendTLSError
	timeout := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT)
	switch {
	case errors.As(err, &secure) && !timeout:
		return causeTLS
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return causeRefused
	case timeout:
		return causeTimeout
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.As(err, &name):
		return causeUnreachable
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL),
		errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM):
		return causeLocal
	}
	return causeOther
}
