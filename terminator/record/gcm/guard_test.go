// SPDX-License-Identifier: Apache-2.0

//go:build unix

package gcm_test

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// fence is memory between two pages that nobody may touch: a read or a write
// beyond it kills the test.
type fence []byte

func newFence(t *testing.T, size int) fence {
	t.Helper()
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	all, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("mmap: %v", err)
	}
	t.Cleanup(func() { _ = unix.Munmap(all) })
	for _, p := range [][]byte{all[:page], all[page+size:]} {
		if err := unix.Mprotect(p, unix.PROT_NONE); err != nil {
			t.Fatalf("mprotect: %v", err)
		}
	}
	return fence(all[page : page+size : page+size])
}

// put copies b to the start or the end, with room behind b and no more capacity.
func (f fence) put(b []byte, room int, end bool) []byte {
	n := len(b) + room
	at := 0
	if end {
		at = len(f) - n
	}
	copy(f[at:], b)
	return f[at : at+len(b) : at+n]
}

// TestTouchesNothingBeyondItsArguments puts every argument against a page that
// nobody may touch.
func TestTouchesNothingBeyondItsArguments(t *testing.T) {
	needKernels(t)
	s := newSource(t)
	keys, nonces, datas := newFence(t, 32), newFence(t, 12), newFence(t, 64)
	in, out := newFence(t, 3000), newFence(t, 3000)
	for n := range 1100 {
		for _, end := range []bool{false, true} {
			p := newPair(t, keys.put(s.bytes(16+16*s.IntN(2)), 0, end))
			nonce, data := nonces.put(s.bytes(12), 0, end), datas.put(s.bytes(n%65), 0, end)
			text := s.bytes(n)
			want := p.theirs.Seal(nil, nonce, text, data)
			if got := p.ours.Seal(out.put(nil, n+16, end), nonce, in.put(text, 0, end), data); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: sealed wrong", n)
			}
			if got, err := p.ours.Open(out.put(nil, n, end), nonce, in.put(want, 0, end), data); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%d bytes: opened wrong: %v", n, err)
			}
			place := in.put(text, 16, end)
			if got := p.ours.Seal(place[:0], nonce, place, data); !bytes.Equal(got, want) {
				t.Fatalf("%d bytes: sealed wrong in place", n)
			}
			place = in.put(want, 0, end)
			if got, err := p.ours.Open(place[:0], nonce, place, data); err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%d bytes: opened wrong in place: %v", n, err)
			}
		}
	}
}
