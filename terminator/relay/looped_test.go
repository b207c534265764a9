// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/bench/leak"
	"github.com/sluice-gateway/sluice/terminator/record"
)

func TestMain(m *testing.M) { os.Exit(leak.Of(m.Run).Run()) }

func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func connected(t *testing.T, ln net.Listener) (near, far *net.TCPConn) {
	t.Helper()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// terminated returns the side of a client after its handshake, and the client.
func terminated(t *testing.T, near, client *net.TCPConn, base *tls.Config) (Side, *tls.Conn) {
	t.Helper()
	wire := NewWire(near)
	wire.Decide()
	var keys record.Keys
	server := tls.Server(wire, keys.Config(base))
	secure := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- secure.Handshake() }()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	cs := server.ConnectionState()
	return Side{Leg: near, Record: keys.Take(&cs, wire), Wire: wire}, secure
}

// TestConnectionsMoveBetweenLoopsWhileBytesFlow moves all of them all the time.
func TestConnectionsMoveBetweenLoopsWhileBytesFlow(t *testing.T) {
	const connections, size = 16, 4 << 20
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	loops, err := NewLoops(3)
	if err != nil {
		t.Fatal(err)
	}
	defer loops.Close()
	base := &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	var streams, moving, over sync.WaitGroup
	stop := make(chan struct{})
	for i := range uint64(connections) {
		near, client := connected(t, ln)
		back, backend := connected(t, ln)
		p := new(Progress)
		var c *Looped
		var far interface {
			net.Conn
			CloseWrite() error
		} = client
		if i%2 == 0 {
			var side Side
			side, far = terminated(t, near, client, base)
			c = loops.Prepare(side, Side{Leg: back}, p)
		} else {
			c = loops.Prepare(Side{Leg: near}, Side{Leg: back}, p)
		}
		if c == nil {
			t.Fatal("it is not for a loop")
		}
		over.Add(1)
		c.Start(func(how End, err error) {
			defer over.Done()
			if how != Done || err != nil {
				t.Errorf("connection %d ended as %s, %v", i, how, err)
			}
			if up, down := p.Up.Load(), p.Down.Load(); up != size || down != size {
				t.Errorf("connection %d counted %d up and %d down, want %d", i, up, down, size)
			}
		})
		for n, way := range []struct {
			from, to interface {
				net.Conn
				CloseWrite() error
			}
		}{{far, backend}, {backend, far}} {
			key := 2*i + uint64(n)
			streams.Go(func() {
				if err := keyed.Send(way.from, key, size, 50_000); err != nil {
					t.Errorf("stream %d: %v", key, err)
				}
				_ = way.from.CloseWrite()
			})
			streams.Go(func() {
				if err := keyed.Receive(way.to, key, size); err != nil {
					t.Errorf("stream %d: %v", key, err)
				}
			})
		}
		moving.Go(func() {
			for n := int(i); ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Microsecond):
				}
				c.Check()
				c.post(func() {
					if to := loops.loops[n%3]; c.done != nil && to != c.loop.Load() {
						c.move(to)
						if c.record != nil {
							c.record.Rest()
						}
					}
				})
			}
		})
	}
	streams.Wait()
	over.Wait()
	close(stop)
	moving.Wait()
}

// TestAnIdleConnectionRests looks at the list of those that do not.
func TestAnIdleConnectionRests(t *testing.T) {
	l := &Loops{}
	one := &carrying{all: l, load: func() float64 { return 0 }}
	for _, busy := range []bool{false, true} {
		c := &Looped{record: new(record.Conn), done: func(End, error) {}, warm: one, busy: busy}
		c.loop.Store(one)
		gone := &Looped{record: new(record.Conn), warm: one}
		gone.loop.Store(one)
		one.warm = []*Looped{gone, c}
		one.cool()
		if rests := c.warm == nil; rests == busy {
			t.Errorf("busy %t: rests %t", busy, rests)
		}
		if want := map[bool]int{true: 1}[busy]; len(one.warm) != want {
			t.Errorf("busy %t: %d on the list, want %d", busy, len(one.warm), want)
		}
		if one.timer != nil {
			one.timer.Stop()
		}
	}
}

// TestLoopsFillInOrder asks for the plan of loops with made-up loads.
func TestLoopsFillInOrder(t *testing.T) {
	loops, err := NewLoops(3)
	if err != nil {
		t.Fatal(err)
	}
	defer loops.Close()
	for _, tt := range []struct {
		name   string
		loads  [3]float64
		from   int
		active int
		to     int // -1: nobody
	}{
		{"a full loop gives to the one that has least", [3]float64{.9, .4, .1}, 0, 8, 2},
		{"not when all have much", [3]float64{.9, .6, .7}, 0, 8, -1},
		{"nor the only connection that is active", [3]float64{.9, 0, 0}, 0, 1, -1},
		{"a loop with room keeps what it has", [3]float64{.5, 0, 0}, 0, 8, -1},
		{"a loop with little to do gives that to the first", [3]float64{.3, .1, .1}, 2, 4, 0},
		{"or to one that has room", [3]float64{.7, .1, .1}, 2, 4, 1},
		{"but the first gives nothing away for that", [3]float64{.1, .1, 0}, 0, 4, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i, l := range loops.loops {
				l.load = func() float64 { return tt.loads[i] }
			}
			l := loops.loops[tt.from]
			l.plan(tt.active)
			switch {
			case tt.to < 0 && l.give != 0:
				t.Errorf("gives %d to loop %d", l.give, l.to.number)
			case tt.to >= 0 && (l.give == 0 || l.to.number != tt.to):
				t.Errorf("gives %d, to %+v", l.give, l.to)
			}
		})
	}
}
