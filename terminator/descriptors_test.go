// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

const (
	childEnv = "SLUICE_TEST_TERMINATOR"
	// Limits of descriptors from the start, and from when it runs.
	startNofileEnv = "SLUICE_TEST_NOFILE_START"
	nofileEnv      = "SLUICE_TEST_NOFILE"
)

// reexec runs a server in a process of its own when the test binary is started
// for that: it serves the snapshot on standard input until SIGTERM.
func reexec() {
	if os.Getenv(childEnv) == "" {
		return
	}
	limitDescriptors(startNofileEnv)
	snap := &config.Snapshot{}
	if err := gob.NewDecoder(os.Stdin).Decode(snap); err != nil {
		panic(err)
	}
	s := &Server{Log: slog.New(slog.DiscardHandler), DrainTimeout: time.Second,
		HandshakeTimeout: time.Minute, ConnectTimeout: time.Minute} // its clients and backends take all processors
	for name, problem := range s.Apply(snap).Listeners {
		if problem != "" {
			panic(name + ": " + problem)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	limitDescriptors(nofileEnv)
	fmt.Println("ready")
	wg.Wait()
	stop()
	os.Exit(0)
}

func limitDescriptors(env string) {
	n := os.Getenv(env)
	if n == "" {
		return
	}
	var limit uint64
	_, _ = fmt.Sscan(n, &limit)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		panic(err)
	}
}

// child starts a server in a process of its own.
func child(t *testing.T, snap *config.Snapshot, env ...string) *exec.Cmd {
	t.Helper()
	var in bytes.Buffer
	if err := gob.NewEncoder(&in).Encode(snap); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childEnv+"=1"), env...)
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child says %q, %v", line, err)
	}
	return cmd
}

// cpu returns the processor time that a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	var sum time.Duration
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatalf("the server is gone: %v", err)
	}
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
		var ns time.Duration
		if err == nil {
			_, _ = fmt.Sscan(string(b), &ns)
		}
		sum += ns
	}
	return sum
}

// TestAtTheDescriptorLimitItNeitherExitsNorSpins opens far more connections
// than a server has descriptors for: once with the limit known from the start,
// once with one that falls below what the server counted on.
func TestAtTheDescriptorLimitItNeitherExitsNorSpins(t *testing.T) {
	const clients, watch = 600, time.Second
	for _, tt := range []struct{ name, before, after string }{
		{"limit known at start", "300", ""},
		{"limit lowered later", "", "200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := freePort(t)
			snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
			snap.Listeners[0].Protocol, snap.Listeners[0].TLS = config.TCP, nil
			var env []string
			if tt.after != "" {
				env = append(env, nofileEnv+"="+tt.after)
			}
			if tt.before != "" {
				env = append(env, startNofileEnv+"="+tt.before)
			}
			cmd := child(t, snap, env...)
			var conns []net.Conn
			for range clients {
				c, err := net.Dial("tcp", address(port))
				if err != nil {
					continue // reset, or the backlog is full
				}
				defer c.Close()
				conns = append(conns, c)
			}
			time.Sleep(watch / 2)
			before := cpu(t, cmd.Process.Pid)
			time.Sleep(watch)
			if used := cpu(t, cmd.Process.Pid) - before; used > watch/5 {
				t.Errorf("%v of processor time in %v at the limit", used, watch)
			}
			for _, c := range conns {
				c.Close()
			}
			eventually(t, "it serves again", func() bool {
				c, err := net.Dial("tcp", address(port))
				if err != nil {
					return false
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Second))
				if _, err := c.Write([]byte("hello")); err != nil {
					return false
				}
				_, err = io.ReadFull(c, make([]byte, 5))
				return err == nil
			})
		})
	}
}

// TestAKilledServerLooksFinishedToNobody kills the process under connections
// that stream both ways.
func TestAKilledServerLooksFinishedToNobody(t *testing.T) {
	const connections = 10
	port := freePort(t)
	seen := make(chan string, 3*connections)
	to := backend(t, func(c half) {
		go func() { _ = keyed.Send(c, downKey, 1<<40, 32<<10) }()
		seen <- outcome(strict(c))
	})
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			cmd := child(t, way.snap)
			ends := make(chan string, connections)
			var wg sync.WaitGroup
			for range connections {
				c := way.dial(t)
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err) // the backend leg is there once it sends
				}
				wg.Go(func() { _ = keyed.Send(c, upKey, 1<<40, 32<<10) })
				wg.Go(func() { ends <- outcome(strict(c)) })
			}
			time.Sleep(100 * time.Millisecond)
			_ = cmd.Process.Kill()
			wg.Wait()
			for range connections {
				if got := <-ends; got == "end" {
					t.Errorf("a client saw %s", got)
				}
				if got := <-seen; got == "end" {
					t.Error("a backend saw an end")
				}
			}
		})
	}
}
