// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Of(m.Run).Run()) }

// Whatever is left is told, and told no more once it is gone.
func TestWhatIsLeftIsTold(t *testing.T) {
	for _, c := range []struct {
		name, want string
		leave      func(t *testing.T) (tidy func())
	}{
		{"a socket", "(socket:", func(t *testing.T) func() {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			return func() { l.Close() }
		}},
		{"a process", "process ", func(t *testing.T) func() { return leave(t, exec.Command("sleep", "1000")) }},
		{"a process whose parent has ended", "(sleep 1000", func(t *testing.T) func() {
			cmd := exec.Command("sh", "-c", "sleep 1000 & read end; kill $!")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			leave(t, cmd)
			return func() { in.Close(); _ = cmd.Wait() }
		}},
		{"a child without an end", "child ", func(t *testing.T) func() {
			cmd := exec.Command("true")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			return func() { _ = cmd.Wait() }
		}},
		{"a pin", "/sys/fs/bpf/" + Name() + "pin", func(t *testing.T) func() {
			needRoot(t)
			dir := "/sys/fs/bpf/" + Name() + "pin"
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Skip(err) // no bpffs
			}
			return func() { os.Remove(dir) }
		}},
		{"a thread in a namespace", "thread ", func(t *testing.T) func() {
			needRoot(t)
			in, out := make(chan error), make(chan bool)
			var stray func()
			stray = func() {
				runtime.LockOSThread()
				if unix.Gettid() == os.Getpid() {
					go stray() // another one: the first thread may go where it likes
					<-out
					return
				}
				in <- unix.Unshare(unix.CLONE_NEWNET)
				<-out
			}
			go stray()
			if err := <-in; err != nil {
				t.Fatal(err)
			}
			return func() { close(out) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, err := start()
			if err != nil {
				t.Fatal(err)
			}
			tidy := c.leave(t)
			err = before.left(200 * time.Millisecond)
			tidy()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q in it", err, c.want)
			}
			if err := before.left(time.Minute); err != nil {
				t.Errorf("when it is gone: %v", err)
			}
		})
	}
}

// leave starts a process, and ends it on demand.
func leave(t *testing.T, cmd *exec.Cmd) func() {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestFailedTestsStayFailed(t *testing.T) {
	if code := Of(func() int { return 3 }).Run(); code != 3 {
		t.Errorf("exit status %d, want the 3 of the tests", code)
	}
}
