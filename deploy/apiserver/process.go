// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a component of Kubernetes that ends with its parent, however that
// ends.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended, then err is valid
	err  error
}

// startProcess runs a component in a folder, its output appended to a log
// there.
func startProcess(binary, dir, component string, args ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, component+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(binary, append([]string{component}, args...)...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel sends the signal when the thread ends that started the
		// child (PR_SET_PDEATHSIG(2const)): this goroutine keeps its thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", component, err)
	}
	return p, nil
}

// kill ends the process and waits for its end. A nil process has ended.
func (p *process) kill() error {
	if p == nil {
		return nil
	}
	err := p.signal(syscall.SIGKILL)
	<-p.done
	return err
}

func (p *process) signal(sig syscall.Signal) error {
	if p == nil {
		return errors.New("API server is stopped")
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%s to %s: %w", sig, p.cmd.Args[1], err)
	}
	return nil
}

// awaitStop waits until all threads of a process have stopped: one that runs on
// another processor goes on for a moment.
func (p *process) awaitStop() error {
	for {
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WSTOPPED, nil)
		if err != unix.EINTR {
			return os.NewSyscallError("waitid", err)
		}
	}
}

// logTail is the end of the log, for an error's text.
func (p *process) logTail() string {
	const most = 4 << 10
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// port is a TCP port of 127.0.0.1 that nobody else gets while the API server
// is down: a socket is bound to it and does not listen. The API server shares
// it by SO_REUSEPORT.
type port struct {
	fd     int
	number uint16
}

func reservePort() (_ *port, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve port: %w", err)
	}
	p := &port{fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("reserve port: %w", err), p.release())
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr("127.0.0.1").As4()}); err != nil {
		return nil, err
	}
	addr, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	p.number = uint16(addr.(*unix.SockaddrInet4).Port)
	return p, nil
}

func (p *port) release() error { return unix.Close(p.fd) }
