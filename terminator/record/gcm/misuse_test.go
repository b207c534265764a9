// SPDX-License-Identifier: Apache-2.0

package gcm_test

import (
	"bytes"
	"crypto/cipher"
	"fmt"
	"testing"

	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// TestMisuse does what callers must not, and some things that they may, to both
// implementations: they panic with the same words, or return the same, and leave
// the same in memory.
func TestMisuse(t *testing.T) {
	needKernels(t)
	s := newSource(t)
	key, nonce := s.bytes(16), s.bytes(16)
	p := newPair(t, key)
	text := s.bytes(500)
	sealed := p.theirs.Seal(nil, nonce[:12], text[:300], nil)
	type call = func(aead cipher.AEAD, b []byte) ([]byte, error)
	seal := func(to, nonce, from, data func(b []byte) []byte) call {
		return func(aead cipher.AEAD, b []byte) ([]byte, error) {
			return aead.Seal(to(b), nonce(b), from(b), data(b)), nil
		}
	}
	open := func(to, nonce, from, data func(b []byte) []byte) call {
		return func(aead cipher.AEAD, b []byte) ([]byte, error) {
			return aead.Open(to(b), nonce(b), from(b), data(b))
		}
	}
	part := func(from, to int) func(b []byte) []byte { return func(b []byte) []byte { return b[from:to] } }
	none := func([]byte) []byte { return nil }
	nonceOf := func(n int) func([]byte) []byte { return func([]byte) []byte { return nonce[:n] } }
	right := nonceOf(12)
	calls := map[string]call{
		"seal in place":                       seal(part(0, 0), right, part(0, 100), none),
		"seal in place behind a prefix":       seal(part(0, 7), right, part(7, 100), none),
		"seal one byte before":                seal(part(0, 0), right, part(1, 100), none),
		"seal one byte behind":                seal(part(1, 1), right, part(0, 100), none),
		"seal so that only the tag overlaps":  seal(part(0, 0), right, part(110, 210), none),
		"seal next to each other":             seal(part(0, 0), right, part(116, 216), none),
		"seal nothing over something":         seal(part(0, 0), right, part(5, 5), none),
		"seal over additional data":           seal(part(0, 0), right, part(200, 300), part(115, 120)),
		"seal beside additional data":         seal(part(0, 0), right, part(200, 300), part(116, 120)),
		"seal in place with additional data":  seal(part(0, 0), right, part(0, 100), part(50, 60)),
		"seal with what is additional data":   seal(none, right, part(0, 100), part(50, 60)),
		"seal with a short nonce":             seal(none, nonceOf(11), part(0, 100), none),
		"seal with a long nonce":              seal(none, nonceOf(16), part(0, 100), none),
		"seal with no nonce":                  seal(none, none, part(0, 100), none),
		"open with a short nonce":             open(none, nonceOf(11), part(0, 100), none),
		"open with a long nonce":              open(none, nonceOf(13), part(0, 100), none),
		"open nothing":                        open(none, right, none, none),
		"open half a tag":                     open(part(0, 0), right, part(0, 15), none),
		"open a forged empty message":         open(part(0, 0), right, part(0, 16), none),
		"open a forgery in place":             open(part(0, 0), right, part(0, 100), none),
		"open a forgery behind a prefix":      open(part(0, 9), right, part(200, 300), none),
		"open a forgery over additional data": open(part(0, 0), right, part(200, 300), part(83, 90)),
		"open one byte before":                open(part(0, 0), right, part(1, 100), none),
		"open one byte behind":                open(part(1, 1), right, part(0, 100), none),
		"open over the tag":                   open(part(90, 90), right, part(0, 100), none),
		"open something":                      open(part(400, 400), right, func(b []byte) []byte { return append(b[:0:0], sealed...) }, none),
	}
	for name, do := range calls {
		run := func(aead cipher.AEAD) (result string, memory []byte) {
			memory = append(bytes.Clone(text), make([]byte, 500)...)
			defer func() {
				if r := recover(); r != nil {
					result = fmt.Sprintf("panic: %v", r)
				}
			}()
			got, err := do(aead, memory)
			return fmt.Sprintf("%x, %d, %v", got, len(got), err), memory
		}
		ours, ourMemory := run(p.ours)
		theirs, theirMemory := run(p.theirs)
		if ours != theirs {
			t.Errorf("%s: %s, want %s", name, ours, theirs)
		}
		if !bytes.Equal(ourMemory, theirMemory) {
			t.Errorf("%s: memory differs", name)
		}
	}
	if p.ours.NonceSize() != p.theirs.NonceSize() || p.ours.Overhead() != p.theirs.Overhead() {
		t.Errorf("nonce of %d bytes, %d more, want %d and %d", p.ours.NonceSize(), p.ours.Overhead(), p.theirs.NonceSize(), p.theirs.Overhead())
	}
	for _, n := range []int{0, 8, 15, 17, 31, 33, 64} {
		if _, err := gcm.New(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is taken", n)
		}
	}
	clear(key) // New kept no reference to it
	if got := p.ours.Seal(nil, nonce[:12], text[:300], nil); !bytes.Equal(got, sealed) {
		t.Error("the key changed")
	}
}
