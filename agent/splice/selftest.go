// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// Check is one thing that the self-test tried.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what was seen, or what went wrong
}

// Report is what the self-test saw. It decides whether there is a splice:
// kernels are judged by what they do, not by their version.
type Report struct {
	Checks []Check `json:"checks"`
	Cgroup string  `json:"cgroup"` // whose sockets can be spliced
	Pins   string  `json:"pins"`   // the directory, or why there is none
}

// OK says whether every check succeeded.
func (r Report) OK() bool { return r.failed() == "" }

func (r Report) failed() string {
	var failed []string
	for _, c := range r.Checks {
		if !c.OK {
			failed = append(failed, c.Name+": "+c.Detail)
		}
	}
	return strings.Join(failed, "; ")
}

// selfTestTimeout bounds each check. A busy machine is no fault of its kernel.
const selfTestTimeout = 20 * time.Second

// selfTest tries the splice on private sockets over the loopback link.
func (s *Splicer) selfTest() Report {
	var r Report
	for _, check := range []struct {
		name string
		run  func(*pair) (string, error)
	}{
		{"reader by recv", checkRecv},
		{"order", checkOrder},
		{"back-pressure", checkBackPressure},
		{"FIONREAD", s.checkFIONREAD},
		{"end of file", checkEOF},
		{"lost bytes", checkLost},
		{"reader by splice(2)", checkSplice},
		{"reader turns to splice(2)", checkLateSplice},
		{"reader stalls and splices", checkStalledSplice},
		{"foreign sockmap", checkForeign},
	} {
		detail, err := s.try(check.run)
		if err != nil {
			detail = err.Error()
		}
		r.Checks = append(r.Checks, Check{Name: check.name, OK: err == nil, Detail: detail})
	}
	if err := s.forget(); err != nil {
		r.Checks = append(r.Checks, Check{Name: "clean up", Detail: err.Error()})
	}
	return r
}

// forget takes the self-test out of the counters.
func (s *Splicer) forget() error {
	s.resets.Store(0)
	perCPU := make([]bpf.SpliceSlByteCounts, ebpf.MustPossibleCPU())
	return errors.Join(
		s.objs.SlOutcomes.Put(uint32(0), bpf.SpliceSlCounts{}),
		s.objs.SlBytes.Put(uint32(0), perCPU))
}

func (s *Splicer) try(check func(*pair) (string, error)) (string, error) {
	p, err := s.newPair()
	if err != nil {
		return "", err
	}
	detail, err := check(p)
	return detail, errors.Join(err, p.close())
}

// pair is a connection with both of its ends at hand.
type pair struct {
	splicer *Splicer
	agent   *Conn
	backend *net.TCPConn
	key     bpf.SpliceSlEndpointKey
}

// smallBuffers keeps what TCP holds for a stalled reader small, so that checks
// meet its window soon.
const smallBuffers = 64 << 10

func (s *Splicer) newPair() (_ *pair, err error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	defer l.Close()
	if err := setRcvbuf(l); err != nil {
		return nil, err
	}
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	p := &pair{splicer: s, key: bpf.SpliceSlEndpointKey{Ip: addr.Addr().As16(), Port: addr.Port()}}
	var v bpf.SpliceSlEndpoint
	text(v.Endpoint[:], netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()).String())
	text(v.Route[:], "self-test")
	if err := s.objs.SlEndpoints.Put(p.key, &v); err != nil {
		return nil, fmt.Errorf("write endpoint: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()

	ctx, cancel := context.WithTimeout(context.Background(), selfTestTimeout)
	defer cancel()
	if p.agent, err = s.dial(ctx, nil, "tcp4", addr.String()); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(selfTestTimeout)
	if err := l.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if p.backend, err = l.AcceptTCP(); err != nil {
		return nil, fmt.Errorf("accept on loopback: %w", err)
	}
	return p, errors.Join(p.agent.SetDeadline(deadline), p.backend.SetDeadline(deadline))
}

func setRcvbuf(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, smallBuffers)
	})
	return errors.Join(err, set)
}

func (p *pair) close() error {
	var errs []error
	if p.agent != nil {
		errs = append(errs, p.agent.Close())
	}
	if p.backend != nil {
		errs = append(errs, p.backend.Close())
	}
	return errors.Join(append(errs, p.splicer.objs.SlEndpoints.Delete(p.key))...)
}

// warm lets both readers earn the splice.
func (p *pair) warm() error {
	for range earn + 1 {
		if err := p.pass(p.agent, p.backend, 16); err != nil {
			return err
		}
		if err := p.pass(p.backend, p.agent, 16); err != nil {
			return err
		}
	}
	if _, flow := p.agent.look(); flow == nil || flow.Agent.Spliced == 0 || flow.Backend.Spliced == 0 {
		_, reason := p.agent.Path()
		return fmt.Errorf("not spliced after %d round trips: %s", earn+1, reason)
	}
	return nil
}

// pass sends n bytes and reads them on the other side.
func (p *pair) pass(from, to net.Conn, n int) error {
	if err := sendPattern(from, 0, n); err != nil {
		return err
	}
	return readPattern(to, 0, n)
}
