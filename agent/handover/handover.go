// SPDX-License-Identifier: Apache-2.0

// Package handover passes the listening sockets of a running agent to its
// successor on the same machine, so that no client is refused in between.
//
// A listening socket is passed, not a port (SCM_RIGHTS, unix(7)): both processes
// have the same queue of connections, and what is in it when one of them closes
// the socket is accepted by the other. Two sockets of one port (SO_REUSEPORT)
// would have a queue each, and what waits in one is reset when it closes.
//
// The conversation, on a unix stream that begins as HTTP (Upgrade: Protocol):
//
//	running    its sockets, in frames of at most perFrame, then an empty frame
//	successor  "serving\n" when it accepts on all that it wants
//	running    "left\n" when it accepts no more and the rest is the successor's
//	running    lines of JSON until its last connection ends (Rest)
//
// A successor that goes away before it is serving changed nothing. A frame is
// its length (4 bytes, big endian), then JSON: the name of each socket, with
// the sockets themselves beside the first byte.
package handover

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Protocol names the version of the conversation. Agents that do not speak the
// same one do not hand over.
const Protocol = "sluice-handover/1"

const (
	perFrame = 200     // the kernel allows SCM_MAX_FD, 253
	maxFrame = 1 << 20 // bytes of JSON
	// answer bounds each step but the successor's start.
	answer = 15 * time.Second
	// start bounds the time until the successor serves: it may have to wait for
	// an API server.
	start = 10 * time.Minute
)

// Socket is a listening socket with the use that it has.
type Socket struct {
	// Use is "listener", or one that both ends know: "admin", "metrics".
	Use string
	// Listener is a *net.TCPListener or a *net.UnixListener.
	Listener net.Listener
}

// Rest is what is left of an agent that handed over.
type Rest struct {
	Connections int `json:"connections"`
	// Until is when the rest is reset; zero while that is not decided.
	Until time.Time `json:"until,omitzero"`
}

// Give hands over sockets, which stay open. It returns nil when leave was called
// and the successor knows: then the sockets are the successor's. It closes conn
// on errors only; after success Tell goes on with it.
func Give(conn *net.UnixConn, sockets []Socket, leave func()) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, conn.Close())
		}
	}()
	_ = conn.SetDeadline(time.Now().Add(answer))
	for len(sockets) > 0 {
		n := min(len(sockets), perFrame)
		if err := send(conn, sockets[:n]); err != nil {
			return err
		}
		sockets = sockets[n:]
	}
	if err := send(conn, nil); err != nil {
		return err
	}
	_ = conn.SetDeadline(time.Now().Add(start))
	if line, err := readLine(conn); err != nil || line != "serving\n" {
		return fmt.Errorf("wait until the successor serves: %w", errors.Join(err, unexpected(line)))
	}
	leave()
	_ = conn.SetDeadline(time.Now().Add(answer))
	// The successor serves, whether it hears this or not.
	_, _ = conn.Write([]byte("left\n"))
	return nil
}

// Tell says what is left, twice a second until nothing is, and closes conn.
func Tell(conn *net.UnixConn, rest func() Rest) {
	defer conn.Close()
	for {
		r := rest()
		line, _ := json.Marshal(r)
		_ = conn.SetDeadline(time.Now().Add(answer))
		if _, err := conn.Write(append(line, '\n')); err != nil || r.Connections == 0 {
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

func send(conn *net.UnixConn, sockets []Socket) error {
	uses := make([]string, len(sockets))
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for i, s := range sockets {
		uses[i] = s.Use
		fd, err := duplicate(s.Listener)
		if err != nil {
			return fmt.Errorf("hand over the socket of %s: %w", s.Listener.Addr(), err)
		}
		fds = append(fds, fd)
	}
	body, err := json.Marshal(uses)
	if err != nil {
		return err
	}
	frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	n, _, err := conn.WriteMsgUnix(frame, rights, nil)
	if err == nil && n < len(frame) {
		_, err = conn.Write(frame[n:])
	}
	if err != nil {
		return fmt.Errorf("hand over sockets: %w", err)
	}
	return nil
}

// duplicate copies the descriptor. Listener.File would do, but its Fd makes
// the socket blocking, for both processes.
func duplicate(l net.Listener) (fd int, err error) {
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(have uintptr) { fd, err = unix.FcntlInt(have, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(cerr, err)
}

// Offer is what a running agent hands over.
type Offer struct {
	Sockets []Socket
	conn    *net.UnixConn
	r       *bufio.Reader
}

// Receive takes the sockets that Give sends on conn.
func Receive(conn *net.UnixConn) (_ *Offer, err error) {
	o := &Offer{conn: conn, r: bufio.NewReader(conn)}
	defer func() {
		if err != nil {
			o.Close()
		}
	}()
	_ = conn.SetDeadline(time.Now().Add(answer))
	for {
		sockets, err := receive(conn)
		o.Sockets = append(o.Sockets, sockets...)
		if err != nil {
			return nil, fmt.Errorf("take over sockets: %w", err)
		}
		if len(sockets) == 0 {
			return o, nil
		}
	}
}

func receive(conn *net.UnixConn) ([]Socket, error) {
	head := make([]byte, 4)
	oob := make([]byte, unix.CmsgSpace(perFrame*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(head, oob)
	if err != nil {
		return nil, err
	}
	files, err := filesOf(oob[:oobn])
	defer func() {
		for _, f := range files {
			f.Close() // listeners have copies
		}
	}()
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = errors.New("no descriptors left for them")
	}
	if err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > maxFrame {
		return nil, fmt.Errorf("a frame of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	var uses []string
	if err := json.Unmarshal(body, &uses); err != nil {
		return nil, err
	}
	if len(uses) != len(files) {
		return nil, fmt.Errorf("%d names for %d sockets", len(uses), len(files))
	}
	var out []Socket
	for i, f := range files {
		l, err := net.FileListener(f)
		if err != nil {
			return out, err
		}
		out = append(out, Socket{uses[i], l})
	}
	return out, nil
}

// filesOf are the descriptors of a control message.
func filesOf(oob []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "socket"))
		}
	}
	return files, nil
}

// Serving tells the running agent that its successor accepts connections, and
// returns when it has left. On an error it may be there still, or dead.
func (o *Offer) Serving() error {
	_ = o.conn.SetDeadline(time.Now().Add(answer))
	if _, err := o.conn.Write([]byte("serving\n")); err != nil {
		return fmt.Errorf("tell the agent before this one that its sockets are served: %w", err)
	}
	line, err := o.r.ReadString('\n')
	if err != nil || line != "left\n" {
		return fmt.Errorf("wait until the agent before this one has left: %w", errors.Join(err, unexpected(line)))
	}
	return nil
}

// Rest calls each with what the agent before this one says of its rest, until
// that is gone, which the last call says.
func (o *Offer) Rest(each func(Rest)) {
	for {
		_ = o.conn.SetReadDeadline(time.Now().Add(answer))
		line, err := o.r.ReadBytes('\n')
		var r Rest
		if err != nil || json.Unmarshal(line, &r) != nil {
			each(Rest{})
			return
		}
		each(r)
	}
}

// Take returns the socket of a use and makes it the caller's; nil when there is
// none.
func (o *Offer) Take(use string) net.Listener {
	for i, s := range o.Sockets {
		if s.Use == use {
			o.Sockets = append(o.Sockets[:i:i], o.Sockets[i+1:]...)
			return s.Listener
		}
	}
	return nil
}

// Close ends the conversation and closes the sockets that nobody took.
func (o *Offer) Close() {
	o.conn.Close()
	for _, s := range o.Sockets {
		s.Listener.Close()
	}
	o.Sockets = nil
}

// readLine reads a line, byte by byte: nothing of what follows.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for b := []byte{0}; len(line) < 100; {
		if _, err := r.Read(b); err != nil {
			return string(line), err
		}
		line = append(line, b[0])
		if b[0] == '\n' {
			break
		}
	}
	return string(line), nil
}

func unexpected(line string) error {
	if line == "" {
		return nil
	}
	return fmt.Errorf("it says %q", line)
}
