// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// T12: a gateway is replaced again and again, under new connections all the
// time (500 a second with SLUICE_LONG set) and long ones. Nobody is refused, reset, or
// gets a wrong byte.
func TestSuccessorsRefuseNobody(t *testing.T) {
	times, rate, pause := 5, 50, time.Duration(0)
	if full {
		times, rate, pause = 100, 500, 3*time.Second
	}
	for _, splice := range []string{"auto", "off"} {
		t.Run("splice "+splice, func(t *testing.T) {
			if splice == "auto" {
				needRoot(t)
			}
			count := &figures.Figures{Faults: int64(times), What: "a successor takes over"}
			figures.Record(t, count)
			metrics := "127.0.0.1:" + freePort(t)
			g := launch(t, serveTCP(t, echo), nil, "-splice", splice, "-metrics", metrics, "-drain-timeout", "1m")
			ctx, stop := context.WithCancel(t.Context())
			short := g.arrivals(ctx, rate)
			defer func() { stop(); short() }()
			began := time.Now()
			for i := range times {
				g.takenOver(func() {
					if i == 0 {
						g.remembers(metrics, "sluice_predecessor_connections 1")
					}
				})
				time.Sleep(pause)
			}
			stop()
			n := short()
			took := time.Since(began)
			count.Connections = n + int64(times)
			count.Bytes = n<<12 + int64(times)*200<<10
			g.remembers(metrics, "sluice_predecessor_connections 0")
			count.What = fmt.Sprintf("a successor takes over; %.0f new connections a second", float64(n)/took.Seconds())
			t.Log(times, count.What)
			if err := g.end(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		})
	}
}

// takenOver has a successor take over under a long connection, which goes on until
// meanwhile has returned, and the gateway before with it.
func (g *gateway) takenOver(meanwhile func()) {
	g.t.Helper()
	long, err := g.echoing()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := long.exchange(100 << 10); err != nil {
		g.t.Fatal(err)
	}
	ended := g.exited
	g.succeed()
	if err := long.exchange(100 << 10); err != nil {
		g.t.Fatalf("a long connection after a take-over: %v", err)
	}
	meanwhile()
	if err := long.finish(); err != nil {
		g.t.Fatalf("the end of a long connection after a take-over: %v", err)
	}
	select {
	case <-ended:
	case <-time.After(time.Minute):
		g.t.Fatal("the gateway before the take-over does not end")
	}
}

// arrivals makes new connections at a steady rate a second until ctx ends, however long
// each takes, but for a quarter of a second's at once: a machine that cannot do that many
// gets fewer. Those that come late because of others, up to a second's, are made up for.
// The function that it returns waits for the last one and returns how many were well.
func (g *gateway) arrivals(ctx context.Context, rate int) func() int64 {
	var wg sync.WaitGroup
	var n atomic.Int64
	var failed sync.Once // many fail for one cause
	room := make(chan struct{}, max(rate/4, 1))
	wg.Go(func() {
		every := time.Second / time.Duration(rate)
		for due := time.Now(); ctx.Err() == nil; due = due.Add(every) {
			if behind := time.Since(due); behind > time.Second {
				due = due.Add(behind - time.Second)
			}
			time.Sleep(time.Until(due))
			room <- struct{}{}
			wg.Go(func() {
				defer func() { <-room }()
				c, err := g.echoing()
				if err == nil {
					err = errors.Join(c.exchange(4<<10), c.finish())
				}
				if err != nil {
					failed.Do(func() { g.t.Errorf("a new connection: %v", err) })
					return
				}
				n.Add(1)
			})
		}
	})
	return func() int64 { wg.Wait(); return n.Load() }
}

// Without -take-over two gateways at one admin socket are a mistake.
func TestTakingOverIsAskedFor(t *testing.T) {
	g := launch(t, serveTCP(t, echo), nil, "-splice", "off")
	out, err := exec.Command("sluice", "run", "-admin", g.admin(), "-metrics", "off", g.dir+"/conf").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "-take-over") {
		t.Errorf("%v: %s", err, out)
	}
}

// succeed replaces the process by another one that takes over from it, and
// returns when that serves.
func (g *gateway) succeed() {
	g.t.Helper()
	before := g.cmd
	args := before.Args
	if args[2] != "-take-over" {
		args = append([]string{args[0], args[1], "-take-over"}, args[2:]...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = g.log
	if err := cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		if err := cmd.Wait(); err != nil && !strings.Contains(err.Error(), "killed") {
			g.t.Errorf("a successor ended: %v", err)
		}
	}()
	g.t.Cleanup(func() { _ = cmd.Process.Kill(); <-exited })
	eventually(g.t, "the successor serves", func() bool {
		select {
		case <-exited:
			g.t.Fatalf("the successor ended:\n%s", g.logged())
		default:
		}
		return strings.Contains(g.status(), fmt.Sprintf(`"pid":%d,`, cmd.Process.Pid))
	})
	g.cmd, g.exited = cmd, exited
}

// remembers wants a line among the metrics.
func (g *gateway) remembers(metrics, line string) {
	g.t.Helper()
	eventually(g.t, "the metrics have "+line, func() bool {
		resp, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return strings.Contains(string(b), "\n"+line+"\n")
	})
}

// echoing is a connection to echo, with a key of its own.
type echoing struct {
	*tls.Conn
	sent *keyed.Stream
	got  *keyed.Checker
}

func (g *gateway) echoing() (*echoing, error) {
	c, err := g.connect()
	if err != nil {
		return nil, err
	}
	return newEchoing(c), nil
}

func newEchoing(c *tls.Conn) *echoing {
	key := rand.Uint64()
	return &echoing{c, keyed.New(key), keyed.NewChecker(key)}
}

// exchange sends n bytes and checks those that come back.
func (c *echoing) exchange(n int64) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c.Conn, c.sent, n)
		sent <- err
	}()
	_, err := io.CopyN(c.got, c.Conn, n)
	return errors.Join(err, <-sent)
}

// finish ends the stream and wants the other one to end too.
func (c *echoing) finish() error {
	defer c.Close()
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if n, err := c.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("%d bytes and %w instead of an end", n, err)
	}
	return nil
}
