// SPDX-License-Identifier: Apache-2.0

package keyed

import (
	"bytes"
	"testing"
)

func TestReceiveAcceptsTheStreamOfItsKeyOnly(t *testing.T) {
	const n = 100_000
	var sent bytes.Buffer
	if err := Send(&sent, 7, n, 1000); err != nil {
		t.Fatal(err)
	}
	stream := sent.Bytes()
	cases := map[string]struct {
		key  uint64
		data func() []byte
		ok   bool
	}{
		"the whole stream": {7, func() []byte { return stream }, true},
		"another key":      {8, func() []byte { return stream }, false},
		"the end missing":  {7, func() []byte { return stream[:n-1] }, false},
		"a byte lost":      {7, func() []byte { return append(bytes.Clone(stream[:500]), stream[501:]...) }, false},
		"a byte repeated":  {7, func() []byte { return append(bytes.Clone(stream[:500]), stream[499:]...) }, false},
		"a byte changed": {7, func() []byte {
			b := bytes.Clone(stream)
			b[n/2] ^= 1
			return b
		}, false},
	}
	for name, c := range cases {
		if err := Receive(bytes.NewReader(c.data()), c.key, n); (err == nil) != c.ok {
			t.Errorf("%s: error %v", name, err)
		}
	}
}
