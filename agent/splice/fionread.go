// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bpf"
)

// checkFIONREAD asks for what a reader finds: there are kernels that leave out
// redirected bytes, and others that leave out TCP's. On such a kernel, readers
// that ask are watched for, and the check is that they are noticed.
func (s *Splicer) checkFIONREAD(p *pair) (string, error) {
	const n = 1000
	ask := func() (bool, error) {
		if err := sendPattern(p.agent, 0, n); err != nil {
			return false, err
		}
		got, err := queued(p.backend, n)
		if err != nil {
			return false, err
		}
		return got == n, readPattern(p.backend, 0, n)
	}
	tcp, err := ask()
	if err != nil {
		return "", err
	}
	if err := p.warm(); err != nil {
		return "", err
	}
	before := p.agent.Counters().SplicedOut
	spliced, err := ask()
	if err != nil {
		return "", err
	}
	if p.agent.Counters().SplicedOut != before+n {
		return "", errors.New("bytes were not redirected")
	}
	if tcp && spliced {
		return "right for bytes in TCP and for redirected ones", nil
	}

	detail := "leaves out redirected bytes"
	if !tcp {
		s.config.Fionread |= uint32(bpf.SpliceSlOmitsSlOmitsTcp)
		detail = "leaves out bytes in TCP"
	}
	if !spliced {
		s.config.Fionread |= uint32(bpf.SpliceSlOmitsSlOmitsSpliced)
	}
	if err := errors.Join(s.configure(), s.traceIoctl()); err != nil {
		return "", err
	}
	detail += " on this kernel; backends that ask are watched for, which slows down system calls"
	return detail, s.checkFIONREADNoticed(!tcp)
}

// checkFIONREADNoticed has a backend ask for bytes that the kernel leaves out.
func (s *Splicer) checkFIONREADNoticed(inTCP bool) (err error) {
	p, err := s.newPair()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if !inTCP {
		if err := p.warm(); err != nil {
			return err
		}
	}
	if err := sendPattern(p.agent, 0, 1000); err != nil {
		return err
	}
	if _, err := queued(p.backend, 1000); err != nil {
		return err
	}
	if _, err := p.agent.Read(make([]byte, 1)); !errors.Is(err, ErrReaderBlind) {
		return fmt.Errorf("a backend that asks FIONREAD went unnoticed: %w", err)
	}
	return nil
}

// queued asks FIONREAD until it says want, or for 100 ms.
func queued(c *net.TCPConn, want int) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	for range 100 {
		var ioctl error
		err = raw.Control(func(fd uintptr) { n, ioctl = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		if err = errors.Join(err, ioctl); err != nil || n == want {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return n, err
}
