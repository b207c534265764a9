// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/figures"
)

const floodedName = "flooded.example.com"

// T33, T35: a flood of ClientHellos, twice as many as the gateway can answer when it has
// nothing else to do, at one of two listeners. Connections that exist go on, whoever
// comes to the other listener is served, and who comes to the same one from another
// network, too. How fast is a figure. Ten seconds of it with SLUICE_LONG set.
func TestAFloodOfHandshakesWaitsForItself(t *testing.T) {
	for _, splice := range []string{"auto", "off"} {
		for _, key := range []string{"ECDSA", "RSA-4096"} {
			if !full && (splice == "auto") == (key == "ECDSA") {
				continue // two of four are enough to run often
			}
			t.Run("splice "+splice+"/"+key, func(t *testing.T) {
				if splice == "auto" {
					needRoot(t)
				}
				testFlood(t, splice, key)
			})
		}
	}
}

func testFlood(t *testing.T, splice, key string) {
	lasts := 500 * time.Millisecond
	if full {
		lasts = 10 * time.Second
	}
	count := &figures.Figures{}
	figures.Record(t, count)
	metrics := "127.0.0.1:" + freePort(t)
	g := launch(t, serveTCP(t, echo), nil, "-splice", splice, "-metrics", metrics)
	g.addFlooded(key)
	before := g.holds(metrics)
	most := flood(t, g.port, lasts/2, 32, 0)

	// What goes on all the time.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	const established = 4
	var moved atomic.Int64
	var wg sync.WaitGroup
	for range established {
		c, err := g.echoing()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := c.exchange(256 << 10); err != nil {
					t.Errorf("a connection that was there before: %v", err)
					return
				}
				moved.Add(256 << 10)
			}
			if err := c.finish(); err != nil {
				t.Error(err)
			}
		})
	}
	visit := func(d time.Duration) (other, same *latencies, rate int64) {
		ctx, stop := context.WithTimeout(t.Context(), d)
		defer stop()
		at := moved.Load()
		other, wait := g.visitors(ctx, 1, g.echoing)
		same, waitSame := g.visitors(ctx, 1, func() (*echoing, error) { return g.echoingAs(floodedName, net.IPv4(127, 2, 2, 2)) })
		wait()
		waitSame()
		return other, same, (moved.Load() - at) * int64(time.Second) / int64(d)
	}
	idleOther, idleSame, idleRate := visit(lasts)
	rate := 2 * float64(most.answered) / (lasts / 2).Seconds()
	// What the flood costs this machine that is not the gateway's doing: the same at a
	// server that only answers.
	aside := port(serveTCP(t, func(c *net.TCPConn) {
		if _, err := c.Read(make([]byte, 1<<10)); err == nil {
			_, _ = c.Write([]byte{22})
		}
	}))
	over := make(chan flooded, 1)
	go func() { over <- flood(t, aside, lasts, 0, rate) }()
	asideOther, asideSame, asideRate := visit(lasts)
	<-over
	go func() { over <- flood(t, g.port, lasts, 0, rate) }()
	other, same, busyRate := visit(lasts)
	peak := g.holds(metrics)
	shed := g.scrape(metrics)[`sluice_connections_total{listener="default/test/flooded",result="handshake_shed"}`]
	f := <-over
	stop()
	wg.Wait()
	after := g.settles(metrics, before)
	count.Connections = established
	for _, visitors := range []*latencies{idleOther, idleSame, asideOther, asideSame, other, same} {
		count.Connections += visitors.count()
	}
	count.Bytes = moved.Load() + (count.Connections-established)*exchangeSize
	count.Faults = f.sent
	count.What = fmt.Sprintf("ClientHellos in %v, %d answered and %.0f shed; established connections %d MiB/s, %.2f of %d with the same flood at a server beside it, without %d; "+
		"handshakes at the other listener %v, with the flood beside %v, without %v; at the same one from another network %v, with it beside %v, without %v; before %v, at the end of the flood %v, after %v",
		lasts, f.answered, shed, busyRate>>20, float64(busyRate)/float64(asideRate), asideRate>>20, idleRate>>20, other, asideOther, idleOther, same, asideSame, idleSame, before, peak, after)
	t.Log(count.Faults, count.What)
}

// addFlooded gives the gateway another listener at the same port.
func (g *gateway) addFlooded(kind string) {
	g.t.Helper()
	c, err := newCertificate(time.Now().Add(time.Hour), floodedName)
	if kind == "RSA-4096" {
		var key crypto.Signer
		if key, err = rsa.GenerateKey(rand.Reader, 4096); err == nil {
			c, err = certificateWith(key, time.Now().Add(time.Hour), floodedName)
		}
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.write("flooded.yaml", c.secret("flooded"))
	text := strings.Replace(string(objects(g.port, port(g.backend))), `"listeners": [{`, fmt.Sprintf(`"listeners": [
  {"name": "flooded", "protocol": "TLS", "port": %s, "hostname": %q, "tls": {"certificateRefs": [{"name": "flooded"}]}}, {`, g.port, floodedName), 1)
	text = strings.Replace(text, `"hostnames": [`, fmt.Sprintf(`"hostnames": [%q, `, floodedName), 1)
	g.write("objects.json", []byte(text))
	eventually(g.t, "the second listener serves", func() bool { return talk(g.port, floodedName) == nil })
}

// echoingAs is echoing with another server name, from an address of loopback's.
func (g *gateway) echoingAs(name string, from net.IP) (*echoing, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: time.Minute, Control: portLater}
	raw, err := d.Dial("tcp", "127.0.0.1:"+g.port)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(2 * time.Minute))
	return echoingOver(raw, name)
}

// echoingOver is echoing over a connection, which it closes where it fails.
func echoingOver(raw net.Conn, name string) (*echoing, error) {
	c := tls.Client(strict{raw}, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return newEchoing(c), nil
}

// portLater lets the kernel choose a port when the socket connects, one that is
// free towards that address.
func portLater(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	}); cerr != nil {
		return cerr
	}
	return err
}

// flooded is what came of a flood.
type flooded struct{ sent, answered int64 }

// flood sends ClientHellos to a port for a while and goes no further: so many at a time,
// or, where that is 0, so many a second whatever becomes of them.
func flood(t *testing.T, port string, lasts time.Duration, atATime int, rate float64) flooded {
	ctx, stop := context.WithTimeout(t.Context(), lasts)
	defer stop()
	hello := clientHello(t, floodedName)
	var answered atomic.Int64
	var sent int64
	one := func() {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 3, 3, 3)}}
		c, err := d.DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetLinger(0)
		defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })()
		answer := make([]byte, 1)
		if _, err := c.Write(hello); err != nil {
			return
		}
		if _, err := io.ReadFull(c, answer); err == nil && bytes.Equal(answer, []byte{22}) {
			answered.Add(1)
		} else if err != nil && ctx.Err() == nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a ClientHello: %v", err)
		}
	}
	var wg sync.WaitGroup
	if atATime > 0 {
		var n atomic.Int64
		for range atATime {
			wg.Go(func() {
				for ctx.Err() == nil {
					n.Add(1)
					one()
				}
			})
		}
		wg.Wait()
		return flooded{n.Load(), answered.Load()}
	}
	// Others in this process need descriptors, too.
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Error(err)
	}
	open := make(chan struct{}, files.Cur/2)
	for began := time.Now(); ctx.Err() == nil; time.Sleep(time.Millisecond) {
		for due := int64(rate * time.Since(began).Seconds()); sent < due; sent++ {
			open <- struct{}{}
			wg.Go(func() {
				defer func() { <-open }()
				one()
			})
		}
	}
	wg.Wait()
	return flooded{sent, answered.Load()}
}
