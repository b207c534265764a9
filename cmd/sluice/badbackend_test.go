// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/terminator"
)

// badBackend is one that does not serve as it should, or takes its freedom.
type badBackend struct {
	name    string
	clients int
	// serve is the backend; nil is one that never answers a connect.
	serve func(c *net.TCPConn) error
	// client returns what is wrong with what it sees.
	client func(c *tls.Conn, key uint64) error
	// results and choices are the words of the access log and of
	// sluice_endpoint_choices_total that are right, one of them for each client.
	results, choices []string
}

// T39: backends that never answer, reset, are slow, end one direction first, or die, all
// of them behind one gateway at once. A client never takes a stream for finished that
// its backend has not finished, the access log and the metrics say what happened, and
// nothing is left. 500 connections to the one that dies with SLUICE_LONG set.
func TestABackendThatFailsLooksFinishedToNobody(t *testing.T) {
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			needRoot(t)
			t.Parallel() // they wait most of the time
			testBadBackends(t, splice)
		})
	}
}

func testBadBackends(t *testing.T, splice string) {
	few, live, slow := 8, 50, int64(3)
	if full {
		few, live, slow = 100, 500, 60
	}
	count := &figures.Figures{}
	figures.Record(t, count)
	metrics := "127.0.0.1:" + freePort(t)
	accessLog := filepath.Join(t.TempDir(), "access.log")
	g := launch(t, serveTCP(t, echo), nil, "-splice", splice, "-metrics", metrics, "-access-log", accessLog)

	var moved atomic.Int64
	const size = 100_000
	upTo := func(c io.Reader, key uint64, n int64) error {
		moved.Add(n)
		return keyed.Receive(io.LimitReader(c, n), 2*key, n)
	}
	broken := func(c *tls.Conn, key uint64) error { return beginsAndBreaks(c, 2*key+1, &moved) }
	all := []badBackend{
		{"hole", few, nil, broken, []string{"connect_failed"}, []string{"timeout"}},
		{"resets-at-once", few, func(c *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) },
			broken, []string{"backend_reset", "connect_failed"}, []string{"ok", "refused"}}, // whether connect(2) has seen it
		{"resets-midway", few, func(c *net.TCPConn) error {
			key, err := keyOf(c)
			return errors.Join(err, upTo(c, key, size), keyed.Send(c, 2*key+1, size, 10_000), c.SetLinger(0), c.Close())
		}, func(c *tls.Conn, key uint64) error {
			return errors.Join(keyed.Send(c, 2*key, size, 10_000), broken(c, key))
		}, []string{"backend_reset"}, []string{"ok"}},
		{"slow", few, func(c *net.TCPConn) error {
			key, err := keyOf(c)
			sent, got := keyed.New(2*key+1), keyed.NewChecker(2*key)
			for range slow { // a byte a second, each way
				_, received := io.CopyN(got, c, 1)
				_, answered := io.CopyN(c, sent, 1)
				err = errors.Join(err, received, answered)
				time.Sleep(time.Second)
			}
			return errors.Join(err, c.CloseWrite())
		}, func(c *tls.Conn, key uint64) error {
			moved.Add(2 * slow)
			return errors.Join(keyed.Send(c, 2*key, slow, 100), keyed.Receive(c, 2*key+1, slow), c.CloseWrite())
		}, []string{"done"}, []string{"ok"}},
		{"ends-first", few, func(c *net.TCPConn) error {
			key, err := keyOf(c)
			moved.Add(size)
			return errors.Join(err, keyed.Send(c, 2*key+1, size, 10_000), c.CloseWrite(), keyed.Receive(c, 2*key, size))
		}, func(c *tls.Conn, key uint64) error {
			moved.Add(size)
			return errors.Join(keyed.Receive(c, 2*key+1, size), keyed.Send(c, 2*key, size, 10_000), c.CloseWrite())
		}, []string{"done"}, []string{"ok"}},
		{"ends-last", few, func(c *net.TCPConn) error {
			key, err := keyOf(c)
			moved.Add(size)
			return errors.Join(err, keyed.Receive(c, 2*key, size), keyed.Send(c, 2*key+1, size, 10_000), c.CloseWrite())
		}, func(c *tls.Conn, key uint64) error {
			moved.Add(size)
			return errors.Join(keyed.Send(c, 2*key, size, 10_000), c.CloseWrite(), keyed.Receive(c, 2*key+1, size))
		}, []string{"done"}, []string{"ok"}},
	}
	for _, b := range all {
		g.write(b.name+".json", routeTo(b.name, b.host(), b.listen(t)))
	}
	dying := &dying{g: g, port: freePort(t), host: "dies.example.com"}
	g.write("dies.json", routeTo("dies", dying.host, dying.port))
	dying.start()
	eventually(t, "all are served", func() bool {
		m := g.scrape(metrics)
		return !slices.ContainsFunc(all, func(b badBackend) bool {
			return m[fmt.Sprintf(`sluice_backend_endpoints{backend="%s",state="well"}`, b.backend())] == 0
		})
	})
	before := g.holds(metrics)

	var wg sync.WaitGroup
	for i, b := range all {
		for j := range b.clients {
			wg.Go(func() {
				key := uint64(1000*i + j)
				c, err := g.connectTo(b.host(), nil)
				if err == nil {
					defer c.Close()
					_, _ = fmt.Fprintf(c, "%06d", key) // may be too late already
					err = b.client(c, key)
				}
				if err != nil {
					t.Errorf("a client of the backend %q: %v", b.name, err)
				}
			})
		}
		count.Connections += int64(b.clients)
	}
	dying.die(live, &moved)
	wg.Wait()
	count.Connections += int64(live)
	said := accessLogOf(t, accessLog, int(count.Connections)+1)
	m := g.scrape(metrics)
	for _, b := range all {
		chosen := 0.0
		for _, choice := range b.choices {
			chosen += m[fmt.Sprintf(`sluice_endpoint_choices_total{backend="%s",result="%s"}`, b.backend(), choice)]
		}
		logged := 0
		for _, result := range b.results {
			logged += said[b.backend()+" "+result]
		}
		if logged != b.clients || int(chosen) != b.clients {
			t.Errorf("of %d clients of the backend %q the access log has %d as %v, and the metrics %v as %v",
				b.clients, b.name, logged, b.results, chosen, b.choices)
		}
	}
	if n, refused := said["default/dies:1 backend_reset"], said["default/dies:1 connect_failed"]; n != live || refused != 1 {
		t.Errorf("of %d connections to the backend that died the access log has %d as reset, and of one after it %d as failed", live, n, refused)
	}
	if splice == "auto" && said["spliced"] == 0 {
		t.Error("no connection was spliced")
	}
	if t.Failed() {
		t.Logf("access log: %v", said)
	}
	dying.start()
	eventually(t, "the backend that died serves again", func() bool {
		c, err := g.connectTo(dying.host, nil)
		return err == nil && newEchoing(c).exchange(exchangeSize) == nil && c.Close() == nil
	})
	count.Bytes, count.Faults = moved.Load(), int64(len(all)+1)
	count.What = fmt.Sprintf("backends: never answers, resets at once, resets midway, a byte a second, ends first, ends last, dies with %d live; before %v, after %v",
		live, before, g.settles(metrics, before))
	t.Log(count.Bytes, count.What)
}

func (b *badBackend) host() string    { return b.name + ".example.com" }
func (b *badBackend) backend() string { return "default/" + b.name + ":1" }

// listen starts the backend until the test ends, and returns its port.
func (b *badBackend) listen(t *testing.T) string {
	if b.serve == nil {
		return port(neverAnswers(t))
	}
	return port(serveTCP(t, func(c *net.TCPConn) {
		if err := b.serve(c); err != nil {
			t.Errorf("the backend %q: %v", b.name, err)
		}
		_, _ = io.Copy(io.Discard, c)
	}))
}

// neverAnswers listens with an accept queue that is full: the kernel drops every SYN.
func neverAnswers(t *testing.T) net.Addr {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	a := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*unix.SockaddrInet4).Port}
	c, err := net.DialTCP("tcp", nil, a) // the one that it has room for
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for n := 0; n == 0; {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
		if err != nil && !errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			t.Fatalf("a connection never got into the accept queue: %v", err)
		}
	}
	return a
}

// keyOf reads what a client begins with.
func keyOf(c io.Reader) (uint64, error) {
	text := make([]byte, 6)
	if _, err := io.ReadFull(c, text); err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(text), 10, 64)
}

// beginsAndBreaks wants the bytes of a key, however many, and no end after them.
func beginsAndBreaks(c *tls.Conn, key uint64, moved *atomic.Int64) error {
	got := keyed.NewChecker(key)
	_, err := io.Copy(got, struct{ io.Reader }{c})
	moved.Add(got.N)
	switch {
	case err == nil:
		return fmt.Errorf("the stream looks finished after %d bytes", got.N)
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, errTruncated): // the writer may have been told of the reset
		return nil
	}
	return err // of the wrong byte, or of the deadline
}

// dying is a backend in a process of its own, that echoes.
type dying struct {
	g          *gateway
	host, port string
	cmd        *exec.Cmd
}

// start starts the process, until it or the test ends, and waits until it listens.
func (d *dying) start() {
	t := d.g.t
	t.Helper()
	cmd := exec.Command("echo-server", d.port)
	cmd.Stderr = d.g.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	d.cmd = cmd
	eventually(t, "the backend listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+d.port)
		return err == nil && c.Close() == nil
	})
}

// echoServer is the process.
func echoServer() {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-serveEcho(l)
}

// die has clients exchange something and then send what the backend does not read any
// more, kills it, and looks what they see. One that comes later is refused.
func (d *dying) die(clients int, moved *atomic.Int64) {
	t := d.g.t
	t.Helper()
	const unread = 1000
	open := make(chan *echoing, clients)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			c, err := d.g.connectTo(d.host, nil)
			if err != nil {
				t.Error(err)
				return
			}
			e := newEchoing(c)
			if err := e.exchange(exchangeSize); err != nil {
				t.Errorf("a client of the backend that will die: %v", err)
			}
			open <- e
		})
	}
	wg.Wait()
	close(open)
	if err := d.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "each thread of the backend stands still", func() bool {
		states, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.cmd.Process.Pid))
		return err == nil && len(states) > 0 && !slices.ContainsFunc(states, func(path string) bool {
			text, err := os.ReadFile(path)
			return err != nil || !bytes.Contains(text, []byte(") T "))
		})
	})
	var all []*echoing
	for c := range open {
		all = append(all, c)
	}
	for _, c := range all {
		defer c.Close()
		if _, err := io.CopyN(c.Conn, c.sent, unread); err != nil {
			t.Error(err)
		}
	}
	eventually(t, "all is with the backend", func() bool {
		var conns []terminator.Connection
		if err := json.Unmarshal([]byte(d.g.conns()), &conns); err != nil {
			t.Fatal(err)
		}
		var up int64
		for _, c := range conns {
			if c.SNI == d.host {
				up += c.Up
			}
		}
		return up == int64(len(all))*(exchangeSize+unread)
	})
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		moved.Add(exchangeSize)
		if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a client of the backend that died: %d bytes and %v", n, err)
		}
	}
	_ = d.cmd.Wait()
	c, err := d.g.connectTo(d.host, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := beginsAndBreaks(c, 0, moved); err != nil {
		t.Errorf("a client of the backend that has died: %v", err)
	}
}

// accessLogOf waits until an access log has n connections of the backends here, and
// counts them by backend and result, and by path.
func accessLogOf(t *testing.T, path string, n int) map[string]int {
	t.Helper()
	var counts map[string]int
	eventually(t, fmt.Sprintf("the access log has %d connections", n), func() bool {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		counts = map[string]int{}
		all := 0
		for lines := bufio.NewScanner(f); lines.Scan(); {
			var line struct{ Backend, Result, Path string }
			if json.Unmarshal(lines.Bytes(), &line) != nil || line.Backend == "" || line.Backend == "default/test:1" {
				continue // half of a line, or of launch
			}
			all++
			counts[line.Backend+" "+line.Result]++
			counts[line.Path]++
		}
		return all >= n
	})
	return counts
}
