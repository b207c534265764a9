// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/leak"
)

// Tests with several processes run this binary again, in a role.
const roleEnv = "SLUICE_TEST_ROLE"

type child struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
	done  bool
}

func start(t testing.TB, role string, args ...string) *child {
	t.Helper()
	return startIn(t, "", role, args...)
}

// startIn starts a child in a cgroup, which it gets as its last argument.
func startIn(t testing.TB, cgroup, role string, args ...string) *child {
	t.Helper()
	needRoot(t)
	cmd := exec.Command("/proc/self/exe")
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		args = append(args, cgroup)
	}
	cmd.Env = append(os.Environ(), roleEnv+"="+role+" "+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, stdin: stdin, lines: bufio.NewScanner(stdout)}
	t.Cleanup(func() {
		if !c.done {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return c
}

// expect waits for a line and returns what follows the word.
func (c *child) expect(word string) string {
	c.t.Helper()
	if !c.lines.Scan() {
		c.t.Fatalf("child ended, want %q", word)
	}
	rest, ok := strings.CutPrefix(c.lines.Text(), word)
	if !ok {
		c.t.Fatalf("child says %q, want %q", c.lines.Text(), word)
	}
	return strings.TrimSpace(rest)
}

// tell lets a waiting child go on.
func (c *child) tell() {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.stdin); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) wait() {
	c.t.Helper()
	c.done = true
	if err := c.cmd.Wait(); err != nil {
		c.t.Errorf("child: %v", err)
	}
}

func (c *child) kill() {
	c.t.Helper()
	c.done = true
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	_ = c.cmd.Wait() // says that it was killed
}

func playRole(line string) int {
	role, args, _ := strings.Cut(line, " ")
	var err error
	switch role {
	case "echo-client":
		err = echoClient(args)
	case "bystander":
		err = bystander()
	case "outsider":
		err = outsider(strings.Fields(args))
	case "gateway":
		err = gateway(strings.Fields(args))
	case "echo-server":
		err = echoServer(args)
	case "reader":
		err = readerRole(strings.Fields(args))
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		return 1
	}
	return 0
}

// echoClient uses an agent's mark without being the agent.
func echoClient(addr string) error {
	s := &Splicer{mark: DefaultMark}
	d := net.Dialer{Control: s.beforeConnect}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := roundTrips(c, 20); err != nil {
		return err
	}
	fmt.Println("done")
	return nil
}

// gateway is an agent: it opens, connects, is spliced, tells where it has
// pinned its maps, leaves bytes unread, and waits.
func gateway(args []string) error {
	addr, pins, unread := args[0], args[1], 0
	if _, err := fmt.Sscan(args[2], &unread); err != nil {
		return err
	}
	s, err := Open(Options{PinDir: pins})
	if err != nil {
		return err
	}
	if err := s.SetEndpoints([]Endpoint{{Address: netip.MustParseAddrPort(addr), Route: "test/gateway"}}); err != nil {
		return err
	}
	c, err := s.Dial(context.Background(), nil, "tcp", addr)
	if err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		return err
	}
	if err := roundTrips(c, 20); err != nil {
		return err
	}
	for sent := 0; sent < unread; sent += 30_000 {
		if err := sendPattern(c, sent, min(30_000, unread-sent)); err != nil {
			return err
		}
	}
	path, _ := c.(*Conn).Path()
	fmt.Println(path, s.SelfTest().Pins, c.(*Conn).Counters().SplicedOut)
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	return s.Close()
}

// newCgroup makes a cgroup for the time of the test.
func newCgroup(t testing.TB) string {
	t.Helper()
	root, err := CgroupRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(root, leak.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, "cgroup is empty", func() bool { return syscall.Rmdir(dir) == nil })
	})
	return dir
}
