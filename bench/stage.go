// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent/netns"
)

// serverName is the name of the one certificate that most scenarios need.
const serverName = "bench.example.com"

// stage is what all windows of a run share.
type stage struct {
	dir       string // gateways make theirs in it
	workers   int    // of every gateway, 0 for its default
	authority *authority
	ecdsa     identity
	rsa       identity
	many      []identity // made when a scenario needs them

	near, far     *backend            // far is nil unless a scenario needs it
	servers       map[Program]*server // those that scenarios need
	load, spinner *child
}

// backend is a backend process and how gateways reach it.
type backend struct {
	*child
	address, listen netip.Addr
	ns              *netns.NS // nil for this one
}

func (b *backend) cpu() (time.Duration, error) { return cpuTime(b.pid()) }

// setStage starts what the windows of some scenarios share. cleanup is never
// nil and undoes what was done, also after an error.
func setStage(ctx context.Context, dir string, todo []Scenario) (s *stage, cleanup func() error, err error) {
	var undo []func() error
	cleanup = func() error {
		var errs []error
		for _, f := range slices.Backward(undo) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	s = &stage{dir: dir, servers: map[Program]*server{}}
	if err := raiseFiles(); err != nil {
		return nil, cleanup, err
	}
	if err := s.certificates(); err != nil {
		return nil, cleanup, err
	}
	places := []struct {
		to  **backend
		far bool
	}{{&s.near, false}, {&s.far, true}}
	for _, p := range places {
		if p.far && !slices.ContainsFunc(todo, func(s Scenario) bool { return s.Remote }) {
			continue
		}
		var closers []func() error
		*p.to, closers, err = s.startBackend(ctx, p.far)
		undo = append(undo, closers...)
		if err != nil {
			return nil, cleanup, err
		}
	}
	for _, scenario := range todo {
		if p := scenario.Program; p != "" && s.servers[p] == nil {
			if s.servers[p], err = startServer(ctx, p, dir, s.near.ns, s.near.listen); err != nil {
				return nil, cleanup, err
			}
			undo = append(undo, s.servers[p].Close)
		}
	}
	for part, to := range map[string]**child{"part:load": &s.load, "part:spin": &s.spinner} {
		if *to, err = startChild(ctx, part, nil); err != nil {
			return nil, cleanup, err
		}
		undo = append(undo, (*to).Close)
	}
	var spinning bool
	return s, cleanup, s.spinner.receive(&spinning)
}

func (s *stage) certificates() (err error) {
	if s.authority, err = newAuthority(); err != nil {
		return err
	}
	if s.ecdsa, err = s.authority.issue(serverName, false); err != nil {
		return err
	}
	s.rsa, err = s.authority.issue("rsa."+serverName, true)
	return err
}

// startBackend starts a backend in a network namespace of its own when we are
// root, else on loopback.
func (s *stage) startBackend(ctx context.Context, far bool) (_ *backend, undo []func() error, err error) {
	b := &backend{address: loopback, listen: loopback}
	switch {
	case os.Geteuid() == 0:
		p, err := newPlace(far)
		undo = append(undo, p.Close)
		if err != nil {
			return nil, undo, err
		}
		b.ns, b.address, b.listen = p.ns, p.address, p.listen
	case far:
		return nil, nil, errors.New("a remote backend needs network namespaces: run as root, or leave the scenarios out that begin with remote")
	default:
		fmt.Fprintln(os.Stderr, "not root: the backend is on loopback instead of another network namespace")
	}
	if b.child, err = startChild(ctx, "part:backend", b.ns); err != nil {
		return nil, undo, err
	}
	undo = append(undo, b.Close)
	if err := b.send(backendSetup{At: b.listen, Identities: []identity{s.ecdsa, s.rsa}}); err != nil {
		return nil, undo, err
	}
	var first backendAddress
	return b, undo, b.receive(&first)
}

// fresh gives the backend new ports and returns them as gateways reach them.
func (b *backend) fresh() (at backendAddress, err error) {
	if err := b.send(struct{}{}); err != nil {
		return at, fmt.Errorf("backend: %w", err)
	}
	if err := b.receive(&at); err != nil {
		return at, fmt.Errorf("backend: %w", err)
	}
	at.Plain = netip.AddrPortFrom(b.address, at.Plain.Port())
	at.TLS = netip.AddrPortFrom(b.address, at.TLS.Port())
	return at, nil
}

// identities are those that a gateway serves in a scenario.
func (s *stage) identities(scenario Scenario) ([]identity, error) {
	if scenario.RSA {
		return []identity{s.rsa}, nil
	}
	if scenario.Names <= 1 {
		return []identity{s.ecdsa}, nil
	}
	for len(s.many) < scenario.Names {
		id, err := s.authority.issue(fmt.Sprintf("n%d.%s", len(s.many), serverName), false)
		if err != nil {
			return nil, err
		}
		s.many = append(s.many, id)
	}
	return s.many[:scenario.Names], nil
}

// raiseFiles lets this process and its children have as many open files as they
// may: idle connections are two in a gateway.
func raiseFiles() error {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	r.Cur = r.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}
