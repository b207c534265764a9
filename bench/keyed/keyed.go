// SPDX-License-Identifier: Apache-2.0

// Package keyed makes and checks byte streams that belong to one connection.
//
// Each stream is the ChaCha8 keystream of its key, so a byte that is lost,
// repeated, out of order or from another connection shows at its position.
// Data tests and benchmarks send nothing else.
package keyed

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
)

// Stream is an endless stream of the bytes that belong to a key.
type Stream struct{ gen *rand.ChaCha8 }

// New returns the stream of a key, from its first byte. Use one key per
// connection and direction.
func New(key uint64) *Stream {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], key)
	return &Stream{rand.NewChaCha8(seed)}
}

// Read fills p with the next bytes. It never fails and never ends.
func (s *Stream) Read(p []byte) (int, error) { return s.gen.Read(p) }

// Checker is a writer that accepts the bytes of one key only.
type Checker struct {
	want *Stream
	buf  []byte
	// N is how many right bytes came so far.
	N int64
}

// NewChecker returns a checker at the first byte of a key's stream.
func NewChecker(key uint64) *Checker { return &Checker{want: New(key)} }

// Write compares p with the next bytes of the stream and fails at the first
// difference, naming its position.
func (c *Checker) Write(p []byte) (int, error) {
	if len(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	want := c.buf[:len(p)]
	_, _ = c.want.Read(want)
	if !bytes.Equal(p, want) {
		for i := range p {
			if p[i] != want[i] {
				return i, fmt.Errorf("byte %d of the stream is %#02x, want %#02x", c.N+int64(i), p[i], want[i])
			}
		}
	}
	c.N += int64(len(p))
	return len(p), nil
}

// Send writes the first n bytes of a key's stream to w in writes of at most
// chunk bytes.
func Send(w io.Writer, key uint64, n int64, chunk int) error {
	buf := make([]byte, min(int64(chunk), max(n, 1)))
	for s := New(key); n > 0; {
		b := buf[:min(n, int64(len(buf)))]
		_, _ = s.Read(b)
		m, err := w.Write(b)
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}

// Receive reads r to its end and checks that it was exactly the first n bytes
// of a key's stream.
func Receive(r io.Reader, key uint64, n int64) error {
	c := NewChecker(key)
	buf := make([]byte, 64<<10)
	if _, err := io.CopyBuffer(c, struct{ io.Reader }{r}, buf); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", c.N, n, err)
	}
	if c.N != n {
		return fmt.Errorf("stream ended after %d of %d bytes", c.N, n)
	}
	return nil
}
