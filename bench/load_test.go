// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestOrdersSurviveTheWire(t *testing.T) {
	want := order{Work: Work{Op: Echo, Size: 100, Count: 1 << 40}, Key: 1<<64 - 1}
	if diff := cmp.Diff(want, decodeOrder(want.encode())); diff != "" {
		t.Error(diff)
	}
}

func TestReceiveAcceptsOnlyThePattern(t *testing.T) {
	const n = 3*period + 1000
	p := newPattern(7)
	var sent bytes.Buffer
	if err := send(&sent, p, n); err != nil {
		t.Fatal(err)
	}
	stream := sent.Bytes()
	changed := bytes.Clone(stream)
	changed[2*period] ^= 1
	cases := map[string]struct {
		key    uint64
		stream []byte
		ok     bool
	}{
		"the whole stream":  {7, stream, true},
		"another key":       {8, stream, false},
		"the end missing":   {7, stream[:n-1], false},
		"a chunk lost":      {7, append(bytes.Clone(stream[:chunk]), stream[2*chunk:]...), false},
		"a record repeated": {7, append(bytes.Clone(stream[:32<<10]), stream[16<<10:]...), false},
		"a byte changed":    {7, changed, false},
	}
	for name, c := range cases {
		err := receive(bytes.NewReader(c.stream), newPattern(c.key), n, make([]byte, chunk))
		if (err == nil) != c.ok {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestTheBackendResetsAConnectionWithWrongBytes(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { acceptAll(l, nil); close(done) }()
	defer func() { l.Close(); <-done }()
	for _, key := range []uint64{1, 2} { // the order says 1
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		o := order{Work: Work{Op: Upload, Size: 1000}, Key: 1}
		if _, err := c.Write(append(o.encode(), newPattern(key).at(0, 1000)...)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 1)
		_, err = io.ReadFull(c, answer)
		if got, want := err == nil && answer[0] == acknowledged, key == 1; got != want {
			t.Errorf("stream of key %d: acknowledged %v, error %v", key, got, err)
		}
	}
}

// echoPair is clients whose backend answers each message after a pause.
func echoPair(t *testing.T, n int, pause time.Duration) []*client {
	var clients []*client
	for range n {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		clients = append(clients, &client{conn: here, key: 7})
		clients[len(clients)-1].wake()
		head := make([]byte, orderSize)
		go func() {
			if _, err := io.ReadFull(there, head); err != nil {
				return
			}
			messages := make(chan []byte, 1000)
			go func() {
				defer close(messages)
				for w := decodeOrder(head).Work; w.Count > 0; w.Count-- {
					b := make([]byte, w.Size)
					if _, err := io.ReadFull(there, b); err != nil {
						return
					}
					messages <- b
				}
			}()
			for b := range messages {
				time.Sleep(pause)
				if _, err := there.Write(b); err != nil {
					return
				}
			}
		}()
	}
	return clients
}

func TestAnOpenLoopCountsWaitingOfMessagesThatWereDue(t *testing.T) {
	// Twenty messages are due at once, answered one by one, each 5 ms after the
	// one before: the last has waited for all.
	clients := echoPair(t, 1, 5*time.Millisecond)
	if err := openLoop(clients, Work{Op: Echo, Size: 10, Count: 20}, 1e6); err != nil {
		t.Fatal(err)
	}
	l := (&load{clients: clients}).latency()
	if got, least := l.Max, 20*5000.; got < least*0.99 { // three digits of the histogram
		t.Errorf("slowest after %v µs, want at least %v", got, least)
	}
}

func TestAnOpenLoopSendsNothingEarly(t *testing.T) {
	clients := echoPair(t, 2, 0)
	start := time.Now()
	if err := openLoop(clients, Work{Op: Echo, Size: 10, Count: 10}, 200); err != nil {
		t.Fatal(err)
	}
	if took, least := time.Since(start), 19*5*time.Millisecond; took < least {
		t.Errorf("20 messages at 200 a second took %v, want at least %v", took, least)
	}
	for i, c := range clients {
		if n := c.latency.TotalCount(); n != 10 {
			t.Errorf("client %d has %d latencies, want 10", i, n)
		}
	}
}

func TestAnOpenLoopFailsWhenABackendGoes(t *testing.T) {
	clients := echoPair(t, 2, 0)
	clients[1].conn.Close()
	if err := openLoop(clients, Work{Op: Echo, Size: 10, Count: 1000}, 1e4); err == nil {
		t.Error("no error")
	}
}
