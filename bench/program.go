// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/freeport"
)

// Program is a load program of a well-known service, with its server.
type Program string

// The programs. Their names are those of scenarios.
const (
	Pgbench        Program = "pgbench"         // transactions of one SELECT, PostgreSQL
	RedisBenchmark Program = "redis-benchmark" // SET of 100 bytes
	Mosquitto      Program = "mosquitto"       // messages of 100 bytes, QoS 1, from publishers to subscribers
)

// Debian keeps PostgreSQL's programs by version and out of PATH.
func postgres(name string) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		return name
	}
	return found[len(found)-1]
}

// server is the service behind the gateways of a program's scenarios.
type server struct {
	cmd     *exec.Cmd
	exited  chan error
	output  *bytes.Buffer // what it printed; read it after exited
	release func()        // of its port
	dir     string
	address netip.AddrPort
}

// startServer starts the server of a program in a namespace, nil for this one,
// and returns when it accepts connections. The caller closes it.
func startServer(ctx context.Context, p Program, dir string, ns *netns.NS, at netip.Addr) (*server, error) {
	port, release, err := freeport.Take()
	if err != nil {
		return nil, err
	}
	s := &server{exited: make(chan error, 1), output: new(bytes.Buffer), release: release, address: netip.AddrPortFrom(at, port)}
	if p == Pgbench && os.Geteuid() == 0 {
		dir = "/var/tmp" // another user must find the way
	}
	if s.dir, err = os.MkdirTemp(dir, "sluice-bench-"+string(p)+"-"); err != nil {
		return nil, err
	}
	if s.cmd, err = p.serve(ctx, s.dir, s.address); err != nil {
		return nil, fmt.Errorf("prepare the server of %s: %w (make bench installs it)", p, err)
	}
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	start := s.cmd.Start
	if ns != nil {
		start = func() error { return ns.Do(s.cmd.Start) }
	}
	if err := start(); err != nil {
		return nil, fmt.Errorf("start the server of %s: %w (make bench installs it)", p, err)
	}
	go func() { s.exited <- s.cmd.Wait() }()
	err = s.ready(ctx, p)
	if err == nil && p == Pgbench {
		host, port := at.String(), strconv.Itoa(int(port))
		err = output(exec.CommandContext(ctx, postgres("pgbench"), "-i", "-q", "-s", "1", "-h", host, "-p", port, "-U", "postgres", "postgres"))
	}
	if err != nil {
		return nil, fmt.Errorf("start the server of %s: %w", p, errors.Join(err, s.Close()))
	}
	return s, nil
}

// serve is the command that serves at an address.
func (p Program) serve(ctx context.Context, dir string, at netip.AddrPort) (*exec.Cmd, error) {
	host, port := at.Addr().String(), strconv.Itoa(int(at.Port()))
	switch p {
	case Pgbench:
		data := filepath.Join(dir, "data")
		as, err := asPostgres(dir)
		if err != nil {
			return nil, err
		}
		initdb := exec.CommandContext(ctx, postgres("initdb"), "-D", data, "-A", "trust", "-U", "postgres", "--locale=C", "--no-sync")
		initdb.SysProcAttr, initdb.Dir = as, dir
		if err := output(initdb); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return nil, err
		}
		_, err = f.WriteString("host all all 0.0.0.0/0 trust\n")
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		cmd := exec.Command(postgres("postgres"), "-D", data, "-c", "listen_addresses="+host, "-c", "port="+port,
			"-c", "unix_socket_directories=", "-c", "fsync=off")
		cmd.SysProcAttr, cmd.Dir = as, dir
		return cmd, nil
	case RedisBenchmark:
		return exec.Command("redis-server", "--bind", host, "--port", port, "--protected-mode", "no", "--save", "", "--dir", dir), nil
	case Mosquitto:
		path := filepath.Join(dir, "mosquitto.conf")
		config := fmt.Sprintf("listener %s %s\nallow_anonymous true\nmax_queued_messages 0\nset_tcp_nodelay true\nlog_type error\nuser root\n", port, host)
		return exec.Command("mosquitto", "-c", path), os.WriteFile(path, []byte(config), 0o600)
	}
	return nil, fmt.Errorf("no server for %q", p)
}

// asPostgres lets PostgreSQL own its directory: it refuses to serve as root.
func asPostgres(dir string) (*syscall.SysProcAttr, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, uerr := strconv.Atoi(u.Uid)
	gid, gerr := strconv.Atoi(u.Gid)
	if err := errors.Join(uerr, gerr, os.Chown(dir, uid, gid)); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

// output runs a command, and its error has what the command printed.
func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out))
	}
	return nil
}

// ready returns when the server takes connections, PostgreSQL when it serves on
// them: it refuses those that come while it starts.
func (s *server) ready(ctx context.Context, p Program) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		var err error
		if p == Pgbench {
			err = output(exec.CommandContext(ctx, postgres("pg_isready"), "-h", s.address.Addr().String(), "-p", strconv.Itoa(int(s.address.Port()))))
		} else {
			var conn net.Conn
			if conn, err = new(net.Dialer).DialContext(ctx, "tcp", s.address.String()); err == nil {
				err = conn.Close()
			}
		}
		if err == nil {
			return nil
		}
		select {
		case werr := <-s.exited:
			s.exited <- werr
			return fmt.Errorf("it exited: %v: %s", werr, bytes.TrimSpace(s.output.Bytes()))
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// cpu is the CPU time of the server and of its processes, those that have ended
// included.
func (s *server) cpu() (time.Duration, error) { return familyTime(s.cmd.Process.Pid) }

// Close ends the server and removes its files.
func (s *server) Close() error {
	_ = s.cmd.Process.Signal(syscall.SIGINT) // PostgreSQL's fast shutdown
	var late error
	select {
	case <-s.exited:
	case <-time.After(startTimeout):
		late = fmt.Errorf("%s did not end within %v of SIGINT", s.cmd.Path, startTimeout)
		_ = s.cmd.Process.Kill()
		<-s.exited
	}
	s.release()
	return errors.Join(late, os.RemoveAll(s.dir))
}
