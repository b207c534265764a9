// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// T11: the gateway is killed under connections that stream, half of them both
// ways. Nobody takes what has come so far for everything: no backend reads an
// end of file, no client a close_notify. What came is right to the last byte. One
// that is started again at once serves.
func TestAKilledGatewayLooksFinishedToNobody(t *testing.T) {
	kills, connections := 1, uint64(200)
	if full {
		kills, connections = 100, 1000
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			if splice == "auto" {
				needRoot(t)
			}
			count := &figures.Figures{What: "SIGKILL"}
			figures.Record(t, count)
			var moved int64
			var served []time.Duration
			for i := range kills {
				if !timeLeft(t) {
					break
				}
				t.Run(strconv.Itoa(i), func(t *testing.T) {
					bytes, after := killUnderStreams(t, splice, connections, func(g *gateway) { _ = g.end(syscall.SIGKILL) })
					moved += bytes
					served = append(served, after)
				})
			}
			count.Connections, count.Bytes, count.Faults = int64(len(served))*int64(connections), moved, int64(len(served))
			if len(served) == 0 {
				return // failed
			}
			slices.Sort(served)
			count.What = fmt.Sprintf("SIGKILL; started again once it has ended, it served after %v from the signal, 99%% within %v, all within %v", served[len(served)/2].Round(time.Millisecond),
				served[(len(served)*99+99)/100-1].Round(time.Millisecond), served[len(served)-1].Round(time.Millisecond))
			t.Logf("killed %d times, after %d MiB in %d connections each: %s", len(served), moved>>20, connections, count.What)
		})
	}
}

// timeLeft tells whether there is time for more before the test's own deadline
// (go test -timeout): a slow machine counts less.
func timeLeft(t *testing.T) bool {
	deadline, ok := t.Deadline()
	return !ok || time.Until(deadline) > 3*time.Minute
}

// killUnderStreams returns how many bytes came before the kill, and how long it
// took from the signal until a gateway that was started at once served.
func killUnderStreams(t *testing.T, splice string, connections uint64, kill func(*gateway)) (moved int64, served time.Duration) {
	s := &streams{start: make(chan struct{}), failures: make(chan error, 4*connections)}
	s.flowing.Add(2 * int(connections))
	s.over.Add(2 * int(connections))
	g := launch(t, serveTCP(t, func(c *net.TCPConn) {
		_ = c.SetDeadline(time.Time{}) // nobody ends a stream but who kills the gateway
		if key, err := strconv.ParseUint(opening(c), 10, 64); err == nil {
			s.stream(fmt.Sprintf("backend %d", key), c, 2*key+1, 2*key, key%2 == 0, true)
		}
	}), nil, "-splice", splice)
	var connected sync.WaitGroup
	clients := make(chan io.Closer, connections)
	const atATime = 8
	for first := range uint64(atATime) {
		connected.Go(func() {
			for id := first; id < connections; id += atATime {
				c, err := g.connect()
				if err == nil {
					_ = c.NetConn().SetDeadline(time.Time{})
					clients <- c
					_, err = fmt.Fprintf(c, "%06d", id)
				}
				if err != nil {
					t.Errorf("connect: %v", err)
					return
				}
				go s.stream(fmt.Sprintf("client %d", id), c, 2*id, 2*id+1, true, id%2 == 0)
			}
		})
	}
	connected.Wait()
	defer func() {
		close(clients)
		for c := range clients {
			c.Close()
		}
	}()
	if t.Failed() {
		return
	}
	close(s.start)
	s.flowing.Wait()
	if splice == "auto" && !strings.Contains(g.conns(), `"spliced"`) {
		t.Error("no connection is spliced")
	}
	began := time.Now()
	kill(g)
	again := exec.Command(g.cmd.Args[0], g.cmd.Args[1:]...)
	again.Stderr = g.log
	if err := again.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = again.Process.Kill()
		_ = again.Wait()
	}()
	eventually(t, "the gateway that is started again serves", func() bool { return talk(g.port, serverName) == nil })
	served = time.Since(began)
	s.over.Wait()
	close(s.failures)
	for err := range s.failures {
		t.Error(err)
	}
	return s.moved.Load(), served
}

// streams are endless streams of both ends of connections.
type streams struct {
	start         chan struct{}  // closed when all are connected
	flowing, over sync.WaitGroup // until each end has carried something; until it has ended
	moved         atomic.Int64
	failures      chan error
}

// stream is one end. It reads until the end, which must be an error, and sends
// meanwhile when it is to; receive tells whether there will be anything to read.
func (s *streams) stream(what string, c io.ReadWriter, sendKey, receiveKey uint64, send, receive bool) {
	defer s.over.Done()
	begun := sync.OnceFunc(s.flowing.Done)
	defer begun()
	if !receive {
		begun()
	}
	<-s.start
	sent := make(chan error, 1)
	if send {
		var w io.Writer = c
		if sendKey >= 10 {
			w = pausing{c} // some are as fast as they can be, all of them would take too long
		}
		go func() { sent <- keyed.Send(w, sendKey, 1<<40, 4<<10) }() // ends with the connection
	} else {
		sent <- nil
	}
	check := keyed.NewChecker(receiveKey)
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		if _, wrong := check.Write(buf[:n]); wrong != nil {
			s.failures <- fmt.Errorf("%s: %w", what, wrong)
			err = wrong
		}
		if s.moved.Add(int64(n)); check.N > 16<<10 {
			begun()
		}
		if err == nil {
			continue
		}
		// A reset is told once: to the reader or to the writer (tcp(7), SO_ERROR).
		if errors.Is(err, io.EOF) && !errors.Is(<-sent, syscall.ECONNRESET) {
			s.failures <- fmt.Errorf("%s: the stream looks finished after %d bytes", what, check.N)
		}
		return
	}
}

// pausing is a writer that leaves time to others.
type pausing struct{ io.Writer }

func (p pausing) Write(b []byte) (int, error) {
	time.Sleep(100 * time.Millisecond)
	return p.Writer.Write(b)
}

func (g *gateway) conns() string {
	g.t.Helper()
	out, err := exec.Command("sluice", "conns", "-o", "json", "-admin", g.admin()).Output()
	if err != nil {
		g.t.Fatal(err)
	}
	return string(out)
}

// A start that fails must not speak of connections that may finish.
func TestOnlyASignalIsSaidToLetConnectionsFinish(t *testing.T) {
	const said = "connections may finish"
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log := slog.New(slog.NewTextHandler(file, nil))
	times := func() int {
		text, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), said)
	}
	ctx, stop := drainOnSignal(t.Context(), log)
	stop()
	<-ctx.Done()
	ctx, stop = drainOnSignal(t.Context(), log)
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	eventually(t, "it is said", func() bool { return times() > 0 })
	if n := times(); n != 1 {
		t.Errorf("it was said %d times, with one signal", n)
	}
}

// T13: SIGTERM. Transfers that run finish, whole; nothing new is taken; then
// the process ends with status 0 and leaves nothing behind. SIGHUP only reads
// the folder.
func TestSIGTERMLetsTransfersFinish(t *testing.T) {
	const transfers, size = 20, 4 << 20
	release := make(chan struct{})
	g := launch(t, serveTCP(t, func(c *net.TCPConn) {
		if opening(c) == "" {
			return
		}
		_ = keyed.Send(c, 1, size/2, 16<<10)
		<-release
		_ = keyed.Send(c, 2, size/2, 16<<10)
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}), nil, "-drain-timeout", "60s")
	g.signal(syscall.SIGHUP)
	if err := talk(g.port, serverName); err != nil {
		t.Fatalf("after SIGHUP: %v", err)
	}

	var started, finished sync.WaitGroup
	failures := make(chan error, transfers)
	for range transfers {
		c, err := g.connect()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		started.Add(1)
		finished.Go(func() {
			_, err := c.Write([]byte("start\n"))
			err = errors.Join(err, keyed.Receive(io.LimitReader(c, size/2), 1, size/2))
			started.Done()
			err = errors.Join(err, keyed.Receive(c, 2, size/2))
			failures <- errors.Join(err, c.CloseWrite())
		})
	}
	started.Wait()
	g.signal(syscall.SIGTERM)
	for { // until it listens no more
		c, err := net.Dial("tcp", "127.0.0.1:"+g.port)
		if errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		if err == nil {
			c.Close()
		}
		time.Sleep(5 * time.Millisecond)
	}
	if !strings.Contains(g.status(), `"draining":true`) {
		t.Error("the status does not tell that it is draining")
	}
	select {
	case <-g.exited:
		t.Error("the gateway ended before its connections")
	default:
	}
	close(release)
	finished.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			t.Error(err)
		}
	}
	select {
	case <-g.exited:
	case <-time.After(20 * time.Second):
		t.Fatal("the gateway does not end after its last connection")
	}
	if g.err != nil {
		t.Errorf("exit: %v", g.err)
	}
	for _, left := range []string{g.admin(), g.pins()} {
		if _, err := os.Lstat(left); !os.IsNotExist(err) {
			t.Errorf("%s is left behind", left)
		}
	}
}

func TestTheDrainTimeoutEndsTheGateway(t *testing.T) {
	g := launch(t, serveTCP(t, echo), nil, "-drain-timeout", "300ms", "-splice", "off")
	c, err := g.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := g.end(syscall.SIGTERM); err != nil {
		t.Errorf("exit: %v", err)
	}
	if _, err := io.ReadAll(c); err == nil {
		t.Error("to the client the connection looks finished")
	}
}

func TestASecondSignalEndsTheGatewayAtOnce(t *testing.T) {
	g := launch(t, serveTCP(t, echo), nil, "-drain-timeout", "10m", "-splice", "off")
	c, err := g.connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g.signal(syscall.SIGTERM)
	for !strings.Contains(g.logged(), "another signal ends at once") {
		time.Sleep(5 * time.Millisecond)
	}
	err = g.end(syscall.SIGTERM)
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || !exit.Sys().(syscall.WaitStatus).Signaled() {
		t.Errorf("exit: %v", err)
	}
	if _, err := io.ReadAll(c); err == nil {
		t.Error("to the client the connection looks finished")
	}
}
