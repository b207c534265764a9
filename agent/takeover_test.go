// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/terminator"
)

// instance is an agent at an admin socket, with what its Run returns.
type instance struct {
	*Agent
	stop  context.CancelFunc
	ended chan error
	left  chan struct{} // closed when it has handed over
}

func runAt(t *testing.T, admin string) *instance {
	t.Helper()
	i := &instance{ended: make(chan error, 1), left: make(chan struct{})}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		i.Agent, err = New(Options{Version: "test", Admin: admin, TakeOver: true, Metrics: "127.0.0.1:0", Log: log,
			HandedOver: func() { close(i.left) }, Server: &terminator.Server{Log: log, DrainTimeout: time.Minute}})
		if err == nil {
			break
		}
		if time.Now().After(deadline) { // one that went away may not be forgotten yet
			t.Fatal(err)
		}
	}
	var ctx context.Context
	ctx, i.stop = context.WithCancel(context.Background())
	go func() { i.ended <- i.Run(ctx) }()
	t.Cleanup(func() {
		i.stop()
		if err := <-i.ended; err != nil {
			t.Error(err)
		}
	})
	return i
}

func alone(i *instance) bool {
	select {
	case <-i.Alone():
		return true
	case <-time.After(20 * time.Second):
		return false
	}
}

func TestASuccessorTakesOverWhenItServes(t *testing.T) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	kept, dropped := tcpListener(t), tcpListener(t)
	dropped.Name = "test/gateway/dropped"
	snapshot := func(listeners ...config.Listener) *config.Snapshot {
		s := &config.Snapshot{Listeners: listeners, Routes: []config.Route{{Name: "r", Backends: []config.BackendRef{{Backend: "b", Weight: 1}}}},
			Backends: []config.Backend{{Name: "b", Endpoints: []config.Endpoint{{Host: "127.0.0.1", Port: uint16(backend.Addr().(*net.TCPAddr).Port)}}}}}
		for i := range s.Listeners {
			s.Listeners[i].L4 = []config.HostRoute{{Route: "r"}}
		}
		return s
	}
	echoes := func(l config.Listener) error {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", l.Port), 10*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		return echo(c)
	}

	admin := filepath.Join(t.TempDir(), "admin")
	first := runAt(t, admin) // there is nobody to take over from
	if !alone(first) {
		t.Fatal("the first one is not alone")
	}
	first.Apply(snapshot(dropped, kept))
	long, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", kept.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if err := echo(long); err != nil {
		t.Fatal(err)
	}

	// One that goes away before it serves changes nothing.
	offer, err := ask(admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Options{Admin: admin, TakeOver: true, Log: slog.New(slog.DiscardHandler), Server: &terminator.Server{}}); err == nil {
		t.Error("two take over at a time")
	}
	offer.Close()
	if err := echoes(kept); err != nil {
		t.Fatal(err)
	}

	second := runAt(t, admin)
	select {
	case <-second.Alone():
		t.Fatal("it took over without a snapshot")
	case <-time.After(100 * time.Millisecond):
	}
	report := second.Apply(snapshot(kept))
	if report.Listeners[kept.Name] != "" {
		t.Errorf("the successor does not serve: %v", report.Listeners)
	}
	if !alone(second) {
		t.Fatal("it did not take over")
	}
	<-first.left
	if err := echo(long); err != nil {
		t.Errorf("a connection of the first one: %v", err)
	}
	for range 20 {
		if err := echoes(kept); err != nil {
			t.Fatalf("a new connection: %v", err)
		}
	}
	if len(first.Connections()) != 1 {
		t.Errorf("the first one has %d connections, want the one that it had", len(first.Connections()))
	}
	if err := echoes(dropped); err == nil {
		t.Error("a listener that is not wanted any more still serves")
	}
	resp, err := AdminClient(admin).Get("http://agent/status")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	first.stop()
	long.Close()
	if err := <-first.ended; err != nil {
		t.Error(err)
	}
	first.ended <- nil
	if resp, err = AdminClient(admin).Get("http://agent/status"); err != nil {
		t.Fatalf("the admin socket went with the first one: %v", err)
	}
	resp.Body.Close()
}

func echo(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 5))
	return err
}

// Who may write to the folder of the socket can put one there, and would keep what it
// hands over.
func TestNothingIsTakenOverFromAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	path := filepath.Join(t.TempDir(), "admin.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	const stranger = 12345
	asStranger := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		// The system call: functions of that name change all threads.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), stranger, ^uintptr(0)); errno != 0 {
			asStranger <- errno
			return
		}
		asStranger <- unix.Listen(fd, 1)
	}()
	if err := <-asStranger; err != nil {
		t.Fatal(err)
	}
	if _, err := ask(path); err == nil || !strings.Contains(err.Error(), "user 12345") {
		t.Errorf("asked: %v", err)
	}
}
