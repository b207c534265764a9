// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// T9: another program's sockmap got hold of the backend's socket first.
func TestForeignOwnerMeansTCP(t *testing.T) {
	needRoot(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	own(t, foreigners[1].sockmap(t), passiveEstablished, addrOf(l).Port())
	s := open(t, Options{})
	know(t, s, addrOf(l), Auto)
	for range 10 {
		p := ends(t, s, l)
		for range 10 {
			if err := errors.Join(p.pass(p.agent, p.backend, 100), p.pass(p.backend, p.agent, 100)); err != nil {
				t.Fatal(err)
			}
		}
		expectPath(t, p.agent, PathRelay, "foreign_owner")
		if err := exchange(p, 1, 200_000, 200_000); err != nil {
			t.Error(err)
		}
	}
	if n := outcome(t, s, "foreign_owner"); n != 10 {
		t.Errorf("%d connections counted as foreign_owner, want 10", n)
	}
}

// T9: Go listens with Multipath TCP unless told otherwise. A backend of that
// kind is spliced; a connection that really is Multipath TCP is not.
func TestMultipathTCP(t *testing.T) {
	s := splicer(t)
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	nl, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := nl.(*net.TCPListener)
	serve(t, l, echo)
	know(t, s, addrOf(l), Auto)

	c := dial(t, s, addrOf(l))
	if err := roundTrips(c, 20); err != nil {
		t.Fatal(err)
	}
	expectPath(t, c, PathSpliced, "")

	before := outcome(t, s, "mptcp")
	// The mark alone: such a socket takes no SO_OOBINLINE on older kernels, and package
	// net would turn to TCP.
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(s.mark))
		})
		return errors.Join(err, cerr)
	}}
	d.SetMultipathTCP(true)
	mc, err := d.DialContext(context.Background(), "tcp", addrOf(l).String())
	if err != nil {
		t.Fatal(err)
	}
	defer mc.Close()
	if ok, err := mc.(*net.TCPConn).MultipathTCP(); !ok || err != nil {
		t.Skipf("this kernel speaks no Multipath TCP: %v", err)
	}
	if err := roundTrips(mc, 20); err != nil {
		t.Fatal(err)
	}
	if n := outcome(t, s, "mptcp") - before; n != 1 {
		t.Errorf("%d connections counted as mptcp, want 1", n)
	}
}

// bpffs mounts a bpffs for the test.
func bpffs(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func names(t testing.TB, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir {
			rel, _ := filepath.Rel(dir, path)
			all = append(all, rel)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

const pinned = 5 // maps

func TestTwoGatewaysOnOneMachine(t *testing.T) {
	base := filepath.Join(bpffs(t), "sluice")
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, echo)
	addr := addrOf(l).String()

	first := start(t, "gateway", addr, base, "0")
	if got := first.expect("spliced "); !strings.HasPrefix(got, base+" ") {
		t.Errorf("first gateway pins in %s, want %s", got, base)
	}
	second := start(t, "gateway", addr, base, "0")
	if got := second.expect("spliced "); !strings.HasPrefix(got, base+"/gateway") {
		t.Errorf("second gateway pins in %s, want a directory below %s", got, base)
	}
	if n := names(t, base); len(n) != 2*pinned+1 {
		t.Errorf("pins are %q, want %d, a directory, and %d", n, pinned, pinned)
	}
	second.kill() // leaves its pins
	third := start(t, "gateway", addr, base, "0")
	third.expect("spliced ")
	if n := names(t, base); len(n) != 2*pinned+1 {
		t.Errorf("pins are %q, want those of the killed gateway gone", n)
	}
	first.tell()
	first.wait()
	third.tell()
	third.wait()
	fourth := start(t, "gateway", addr, base, "0")
	fourth.expect("spliced ")
	if n := names(t, base); len(n) != pinned {
		t.Errorf("pins are %q, want %d", n, pinned)
	}
	fourth.tell()
	fourth.wait()
	if _, err := os.Stat(base); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", base, err)
	}
}

func TestPinsAreReadOnly(t *testing.T) {
	base := filepath.Join(bpffs(t), "sluice")
	s := open(t, Options{PinDir: base})
	if s.SelfTest().Pins != base {
		t.Fatalf("pins: %s", s.SelfTest().Pins)
	}
	for _, name := range names(t, base) {
		info, err := os.Stat(filepath.Join(base, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o440 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
}

func TestWithoutBpffsThereAreNoPins(t *testing.T) {
	s := open(t, Options{PinDir: filepath.Join(t.TempDir(), "sluice")})
	if !strings.Contains(s.SelfTest().Pins, "mount -t bpf") {
		t.Errorf("pins: %q, want the reason and the cure", s.SelfTest().Pins)
	}
}

// A killed agent loses no byte that it has handed over.
func TestKilledAgentLosesNothing(t *testing.T) {
	needRoot(t)
	l := listen(t, "tcp", "127.0.0.1:0")
	const unread = 150_000
	child := start(t, "gateway", addrOf(l).String(), filepath.Join(bpffs(t), "sluice"), strconv.Itoa(unread))
	b, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.CopyN(struct{ io.Writer }{b}, struct{ io.Reader }{b}, 20*100); err != nil {
		t.Fatal(err)
	}
	said := strings.Fields(child.expect("spliced "))
	if spliced, err := strconv.Atoi(said[1]); err != nil || spliced < 50_000 {
		t.Fatalf("child says %q, want bytes redirected and unread", said)
	}
	child.kill()
	if err := readPattern(b, 0, unread); err != nil {
		t.Error(err)
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("then %d bytes, %v; want a reset, for the stream has not ended", n, err)
	}
}

// After Close and the last connection, nothing of it is left in the process.
func TestCloseLeavesNoDescriptors(t *testing.T) {
	needRoot(t)
	fds := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	run := func() {
		s, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		l := listen(t, "tcp", "127.0.0.1:0")
		know(t, s, addrOf(l), Auto)
		p := ends(t, s, l)
		warm(t, p)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		for _, c := range []io.Closer{p.agent, p.backend, l} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	run()
	before := fds()
	run()
	eventually(t, "descriptors are closed", func() bool { return fds() == before })
}
