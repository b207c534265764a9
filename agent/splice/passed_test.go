// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// reader is a process that reads a socket for another one: as much as it is asked
// for, by read(2). It has the socket as its descriptor 3 or, if args say so, gets
// it by SCM_RIGHTS through the Unix socket that is there.
func readerRole(args []string) error {
	fd := 3
	if args[0] == "passed" {
		control := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(3, make([]byte, 1), control, 0)
		if err != nil {
			return err
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil {
			return err
		}
		rights, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			return err
		}
		fd = rights[0]
	}
	for {
		var size int32
		if err := binary.Read(os.Stdin, binary.NativeEndian, &size); err != nil {
			return nil // whoever asks has gone
		}
		p := make([]byte, size)
		n, err := unix.Read(fd, p)
		var errno unix.Errno
		if errors.As(err, &errno) {
			n = -int(errno)
		}
		if err := binary.Write(os.Stdout, binary.NativeEndian, int32(n)); err != nil {
			return err
		}
		if _, err := os.Stdout.Write(p[:max(n, 0)]); err != nil {
			return err
		}
	}
}

// elsewhere reads in another process.
type elsewhere struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
	fd  int
	// turns: every other read is our own.
	turns, ours bool
}

// inAnotherProcess has a child read, which gets the socket as it is said.
func inAnotherProcess(how string, turns bool) func(testing.TB, int) (reading, error) {
	return func(_ testing.TB, fd int) (_ reading, err error) {
		e := &elsewhere{cmd: exec.Command("/proc/self/exe"), fd: fd, turns: turns}
		e.cmd.Env = append(os.Environ(), roleEnv+"=reader "+how)
		e.cmd.Stderr = os.Stderr
		var pass int
		var file *os.File
		if how == "passed" {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			pass, file = pair[0], os.NewFile(uintptr(pair[1]), "")
			defer unix.Close(pass)
		} else {
			dup, err := unix.Dup(fd)
			if err != nil {
				return nil, err
			}
			file = os.NewFile(uintptr(dup), "")
		}
		defer file.Close()
		e.cmd.ExtraFiles = []*os.File{file}
		if e.in, err = e.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		if e.out, err = e.cmd.StdoutPipe(); err != nil {
			return nil, err
		}
		if err := e.cmd.Start(); err != nil {
			return nil, err
		}
		if how == "passed" {
			err = unix.Sendmsg(pass, []byte{0}, unix.UnixRights(fd), nil, 0)
		}
		return e, err
	}
}

func (e *elsewhere) read(p []byte) (int, error) {
	if e.turns {
		if e.ours = !e.ours; e.ours {
			return unix.Read(e.fd, p[:(len(p)+1)/2])
		}
	}
	var n int32
	err := binary.Write(e.in, binary.NativeEndian, int32(len(p)))
	if err == nil {
		err = binary.Read(e.out, binary.NativeEndian, &n)
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("the other process: %w", err)
	case n < 0:
		return 0, unix.Errno(-n)
	}
	return io.ReadFull(e.out, p[:n])
}

func (e *elsewhere) close() error {
	return errors.Join(e.in.Close(), e.cmd.Wait())
}
