// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// TCP carries bytes between two plain TCP connections as they are; the kernel
// moves them (splice(2) under io.Copy). It ends as [Carry] does. p is set at the
// end; [Received] tells what has come so far.
func TCP(client, backend *net.TCPConn, p *Progress) (End, error) {
	c := carrier{client: client, backend: backend}
	up := direction{from: client, to: backend, fromFIN: &c.clientFIN, toFIN: &c.backendFIN}
	down := direction{from: backend, to: client, fromFIN: &c.backendFIN, toFIN: &c.clientFIN}
	var wg sync.WaitGroup
	wg.Go(func() {
		n, err := up.copy()
		p.Up.Add(n)
		p.Ended.Add(1)
		c.end(c.tcpEnd(err))
	})
	n, err := down.copy()
	p.Down.Add(n)
	p.Ended.Add(1)
	c.downEnded.Store(err == nil)
	c.end(c.tcpEnd(err))
	wg.Wait()
	return c.finish()
}

// direction is one way of a plain connection.
type direction struct {
	from, to       *net.TCPConn
	fromFIN, toFIN *atomic.Bool
}

func (d direction) copy() (int64, error) {
	var n int64
	for urgent := make([]byte, 1); ; n++ {
		m, err := io.Copy(d.to, d.from)
		n += m
		if err != nil {
			return n, err
		}
		// splice(2) stops before urgent data as it does at the end: read(2) tells.
		if _, err = d.from.Read(urgent); errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			_, err = d.to.Write(urgent)
		}
		if err != nil {
			return n, err
		}
	}
	var in socket
	in.init(d.from)
	if !in.inOrder() && !d.fromFIN.Load() {
		return n, errReset
	}
	d.toFIN.Store(true)
	return n, d.to.CloseWrite()
}

// tcpEnd finds the leg that failed. io.Copy does not tell, the sockets do: the
// one that was reset is closed.
func (c *carrier) tcpEnd(err error) (End, error) {
	if err == nil {
		return Done, nil
	}
	var backend socket
	backend.init(c.backend)
	if !backend.inOrder() {
		return BackendReset, err
	}
	return ClientReset, err
}

// Received returns how many payload bytes have come in on a connection.
func Received(c *net.TCPConn) int64 {
	info := tcpInfo(c)
	n := int64(info.Bytes_received)
	if info.State != unix.BPF_TCP_ESTABLISHED && n > 0 {
		n-- // the FIN takes a place in the sequence
	}
	return n
}

// Gone tells whether a connection's peer has ended it, or reset it.
func Gone(c *net.TCPConn) bool { return tcpInfo(c).State != unix.BPF_TCP_ESTABLISHED }

// Moved returns a figure that grows with every byte that a connection receives
// and with every byte that its peer acknowledges, or takes past TCP.
func Moved(c syscall.Conn) int64 {
	info := tcpInfo(c)
	n := int64(info.Bytes_received) + int64(info.Bytes_acked)
	if past, ok := c.(interface{ Moved() int64 }); ok {
		n += past.Moved()
	}
	return n
}

// Sending returns a number that changes for as long as the kernel holds bytes for
// the peer and the peer takes them.
func Sending(c syscall.Conn) int64 {
	if outQueue(c) == 0 {
		return 0
	}
	return int64(tcpInfo(c).Bytes_acked)
}

// outQueue returns how many bytes the peer has not acknowledged.
func outQueue(c syscall.Conn) (n int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}

// tcpInfo asks the kernel about a connection. A closed one has zeroes.
func tcpInfo(c syscall.Conn) (info unix.TCPInfo) {
	raw, err := c.SyscallConn()
	if err != nil {
		return info
	}
	_ = raw.Control(func(fd uintptr) {
		if i, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			info = *i
		}
	})
	return info
}
