// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// period is the length after which a pattern repeats: a prime, so that lost or
// repeated records, segments and pages show; short, so that checking costs the
// caches little.
const period = 262_139

// chunk is the size of bulk writes and reads.
const chunk = 64 << 10

// pattern is a keyed stream that is cheap enough to send and check in bulk:
// the first bytes of the key's stream, repeated.
type pattern []byte

func newPattern(key uint64) pattern {
	p := make(pattern, period, period+chunk)
	_, _ = keyed.New(key).Read(p)
	return append(p, p[:chunk]...)
}

// at returns n bytes, at most chunk, that start at an offset of the stream.
func (p pattern) at(offset int64, n int) []byte {
	o := int(offset % period)
	return p[o : o+n]
}

// check compares b, at most chunk bytes, with the stream at an offset.
func (p pattern) check(offset int64, b []byte) error {
	want := p.at(offset, len(b))
	if bytes.Equal(b, want) {
		return nil
	}
	for i := range b {
		if b[i] != want[i] {
			return fmt.Errorf("byte %d of the stream is %#02x, want %#02x", offset+int64(i), b[i], want[i])
		}
	}
	return nil
}
