// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net"
	"testing"

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
	go func() { acceptAll(l); close(done) }()
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
