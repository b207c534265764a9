// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/bench/leak"
)

// A backend whose memory limit leaves no room for redirected bytes gets the rest
// by TCP, which waits for memory, and after what it was redirected.
func TestBackendAtItsMemoryLimitGetsTheRestByTCP(t *testing.T) {
	s := splicer(t)
	// Version 1 limits the memory of sockets alone, and accounts it by thread.
	const root, limit = "/sys/fs/cgroup/memory", "memory.kmem.tcp.limit_in_bytes"
	if _, err := os.Stat(filepath.Join(root, limit)); err != nil {
		t.Skipf("no limit for the memory of sockets alone on this machine: %v", err)
	}
	group, err := os.MkdirTemp(root, leak.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		eventually(t, "the group is empty", func() bool { return os.Remove(group) == nil })
	})
	if err := os.WriteFile(filepath.Join(group, limit), []byte("300000"), 0); err != nil {
		t.Fatal(err)
	}
	l := listen(t, "tcp", "127.0.0.1:0")
	know(t, s, addrOf(l), Auto)

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	join := func(group string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(group, "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0); err != nil {
			t.Fatal(err)
		}
	}
	join(group)
	p := ends(t, s, l) // accepted by a member
	join(root)

	warm(t, p)
	const n = 4 << 20
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(keyed.Send(p.agent, 1, n, 40_000), p.agent.CloseWrite()) }()
	eventually(t, "a redirect is refused", p.agent.out.waiting.Load)
	if err := errors.Join(keyed.Receive(p.backend, 1, n), <-sent); err != nil {
		t.Error(err)
	}
	if c := p.agent.Counters(); c.SplicedOut == 0 || c.SplicedOut >= Credit {
		t.Errorf("%+v: want some bytes redirected, and fewer than without the limit", c)
	}
}
