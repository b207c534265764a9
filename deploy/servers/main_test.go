// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/netns"
)

// site is where the tests happen: the gateway and the clients in the namespace
// of the caller, the servers in one of their own.
var site struct {
	binary  string // sluice
	dir     string // of files, which every user may enter
	ns      *netns.NS
	address netip.Addr // of the servers
	// fionread says that this kernel's FIONREAD is wrong for spliced connections,
	// so that those whose servers ask are none.
	fionread bool
	rows     []row
}

func TestMain(m *testing.M) {
	code, err := prepared(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

func prepared(run func() int) (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("these tests need root, for the splice and a network namespace")
	}
	if site.dir, err = os.MkdirTemp("", "sluice-servers-"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(site.dir)
	if err := os.Chmod(site.dir, 0o755); err != nil { // PostgreSQL does not run as root
		return 0, err
	}
	site.binary = filepath.Join(site.dir, "sluice")
	if out, err := exec.Command("go", "build", "-o", site.binary, "../../cmd/sluice").CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build: %w\n%s", err, out)
	}
	out, err := exec.Command(site.binary, "doctor").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("the splice does not work on this machine: %w\n%s", err, out)
	}
	site.fionread = bytes.Contains(out, []byte("leaves out"))

	if site.ns, err = netns.New(); err != nil {
		return 0, err
	}
	defer site.ns.Close()
	pid := os.Getpid()
	net4 := func(host byte) netip.Addr {
		return netip.AddrFrom4([4]byte{10, 192 + byte(pid%32), byte(pid / 32), host})
	}
	err = netns.Veth(nil, site.ns, fmt.Sprintf("slsv%d", pid%1e7), []netip.Prefix{netip.PrefixFrom(net4(1), 30)}, []netip.Prefix{netip.PrefixFrom(net4(2), 30)})
	if err != nil {
		return 0, err
	}
	site.address = net4(2)
	defer func() { printTable(site.rows) }()
	return run(), nil
}

// machine is where the servers of one test run.
type machine struct {
	t   *testing.T
	dir string
}

// at is the address of a server on a port.
func (*machine) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(site.address, port) }

// file writes a file and returns its path.
func (m *machine) file(name, text string) string {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// start runs a server until the end of the test, and waits until it listens.
func (m *machine) start(port uint16, program string, arguments ...string) netip.AddrPort {
	m.t.Helper()
	log, err := os.Create(filepath.Join(m.dir, fmt.Sprintf("log-%d", port)))
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	cmd := m.command(program, arguments...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // with its children
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	m.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		if m.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			m.t.Logf("%s says: %s", program, text[max(0, len(text)-4000):])
		}
	})
	to := m.at(port)
	eventually(m.t, fmt.Sprintf("%s listens on %s", program, to), func() error {
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			m.t.Fatalf("%s has ended: %s", program, text)
		default:
		}
		c, err := net.DialTimeout("tcp", to.String(), time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	return to
}

// command is a program beside the servers.
func (m *machine) command(program string, arguments ...string) *exec.Cmd {
	// Not ip netns exec: that hides cgroup2 behind a new /sys.
	cmd := exec.Command("nsenter", append([]string{"--net=" + site.ns.Path(os.Getpid()), program}, arguments...)...)
	cmd.Dir = m.dir
	return cmd
}

// must runs a program that prepares something beside the servers.
func (m *machine) must(program string, arguments ...string) {
	m.t.Helper()
	if out, err := m.command(program, arguments...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// postgres prefixes a program that is to run as that user.
func postgres(arguments ...string) []string {
	return append([]string{"--reuid=postgres", "--regid=postgres", "--clear-groups"}, arguments...)
}

// client runs a program with an input and returns its output.
func client(t *testing.T, input string, program string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, arguments...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaint
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(arguments, " "), err, &complaint)
	}
	return out.String()
}

// eventually tries something until it works, for two minutes.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within two minutes: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// lines returns a function that returns the next line of a program's output; it
// fails the test when none comes.
func lines(t *testing.T, r io.Reader) func() string {
	all := make(chan string, 1<<16)
	go func() {
		defer close(all)
		for s := bufio.NewScanner(r); s.Scan(); {
			all <- s.Text()
		}
	}()
	return func() string {
		t.Helper()
		select {
		case line, ok := <-all:
			if !ok {
				t.Fatal("the output has ended")
			}
			return line
		case <-time.After(2 * time.Minute):
			t.Fatal("no line of output for two minutes")
			return ""
		}
	}
}

// dirFor makes a folder that every user may enter.
func dirFor(t *testing.T, server string) string {
	t.Helper()
	dir, err := os.MkdirTemp(site.dir, server+"-")
	if err == nil {
		err = os.Chmod(dir, 0o777) // PostgreSQL does not run as root
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
