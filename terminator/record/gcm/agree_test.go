// SPDX-License-Identifier: Apache-2.0

package gcm_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// needKernels skips a test that would compare crypto/cipher with itself.
func needKernels(t testing.TB) {
	t.Helper()
	if why := gcm.Reason(); why != "" {
		t.Skip("the kernels are not used: " + why)
	}
}

// pair is the same key in both implementations.
type pair struct{ ours, theirs cipher.AEAD }

func newPair(t testing.TB, key []byte) pair {
	t.Helper()
	ours, err := gcm.New(key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	return pair{ours, theirs}
}

// source is random bytes that a failed test can have again.
type source struct{ *rand.Rand }

func newSource(t testing.TB) source {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return source{rand.New(rand.NewPCG(seed, 0))}
}

func (s source) bytes(n int) []byte {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, s.Uint64())
	}
	return b[:n]
}

func (s source) pair(t testing.TB) pair { return newPair(t, s.bytes(16+16*s.IntN(2))) }

// place copies b to a buffer at a random alignment, with random bytes around it
// that must stay as they are, and room behind b.
type place struct {
	buffer, copy []byte
	at, n        int
}

func (s source) place(b []byte, room int) place {
	at := s.IntN(65)
	buffer := s.bytes(at + len(b) + room + s.IntN(65))
	copy(buffer[at:], b)
	return place{buffer, bytes.Clone(buffer), at, len(b) + room}
}

func (p place) slice(n int) []byte { return p.buffer[p.at : p.at+n : p.at+p.n] }

// intact tells whether nothing around the place changed.
func (p place) intact() bool {
	end := p.at + p.n
	return bytes.Equal(p.buffer[:p.at], p.copy[:p.at]) && bytes.Equal(p.buffer[end:], p.copy[end:])
}

// compare seals and opens one message in both implementations, in place or not, and
// with a prefix or not.
func (p pair) compare(s source, nonce, text, data []byte) error {
	want := p.theirs.Seal(nil, nonce, text, data)
	n := len(text)
	prefix := s.bytes(s.IntN(2) * s.IntN(40))

	in := s.place(text, len(want)-n)
	if got := p.ours.Seal(in.slice(0), nonce, in.slice(n), data); !bytes.Equal(got, want) || !in.intact() {
		return fmt.Errorf("sealed %x in place as %x, want %x; around it intact: %t", text, got, want, in.intact())
	}
	if got, err := p.ours.Open(in.slice(0), nonce, in.slice(n+16), data); err != nil || !bytes.Equal(got, text) || !in.intact() {
		return fmt.Errorf("opened %x in place as %x, %v, want %x; around it intact: %t", want, got, err, text, in.intact())
	}
	from, to := s.place(text, 0), s.place(prefix, n+16)
	got := p.ours.Seal(to.slice(len(prefix)), nonce, from.slice(n), data)
	if !bytes.Equal(got, append(bytes.Clone(prefix), want...)) || !to.intact() || !bytes.Equal(from.buffer, from.copy) {
		return fmt.Errorf("sealed %x behind %x as %x, want %x; around it intact: %t", text, prefix, got, want, to.intact())
	}
	from, to = s.place(want, 0), s.place(prefix, n)
	got, err := p.ours.Open(to.slice(len(prefix)), nonce, from.slice(n+16), data)
	if err != nil || !bytes.Equal(got, append(bytes.Clone(prefix), text...)) || !to.intact() || !bytes.Equal(from.buffer, from.copy) {
		return fmt.Errorf("opened %x behind %x as %x, %v, want %x; around it intact: %t", want, prefix, got, err, text, to.intact())
	}
	// A bit of the record flips, or one of the additional data.
	bad, badData := s.place(want, 0), bytes.Clone(data)
	if i := s.IntN(8 * (len(want) + len(data))); i < 8*len(want) {
		bad.slice(n + 16)[i/8] ^= 1 << (i % 8)
	} else {
		badData[i/8-len(want)] ^= 1 << (i % 8)
	}
	bad.copy = bytes.Clone(bad.buffer)
	if got, err := p.ours.Open(bad.slice(0), nonce, bad.slice(n+16), badData); err == nil || got != nil || !bytes.Equal(bad.slice(n), make([]byte, n)) {
		return fmt.Errorf("a forgery of %x opened as %x, %v", want, got, err)
	}
	if tag := bad.slice(n + 16)[n:]; !bytes.Equal(tag, bad.copy[bad.at+n:][:16]) || !bad.intact() {
		return fmt.Errorf("a forgery of %x changed what is around it", want)
	}
	return nil
}

func TestAgreesWithCryptoCipherAtEveryLength(t *testing.T) {
	needKernels(t)
	s := newSource(t)
	for _, size := range []int{16, 32} {
		p := newPair(t, s.bytes(size))
		for n := range 4097 {
			if err := p.compare(s, s.bytes(12), s.bytes(n), s.bytes(s.IntN(65))); err != nil {
				t.Fatalf("key of %d bytes, %d bytes: %v", size, n, err)
			}
		}
		for n := range 600 { // of additional data
			if err := p.compare(s, s.bytes(12), s.bytes(s.IntN(600)), s.bytes(n)); err != nil {
				t.Fatalf("key of %d bytes, %d bytes of additional data: %v", size, n, err)
			}
		}
	}
}

// TestAgreesWithCryptoCipher tries some thousand messages, or with SLUICE_LONG=1
// two million, half of them short.
func TestAgreesWithCryptoCipher(t *testing.T) {
	needKernels(t)
	s := newSource(t)
	tries := 4_000
	if os.Getenv("SLUICE_LONG") != "" {
		tries = 2_000_000
	}
	var p pair
	for i := range tries {
		if i%16 == 0 {
			p = s.pair(t)
		}
		most := 20_000
		if i%2 == 0 {
			most = 600
		}
		if err := p.compare(s, s.bytes(12), s.bytes(s.IntN(most+1)), s.bytes(s.IntN(65))); err != nil {
			t.Fatalf("try %d: %v", i, err)
		}
	}
}

// TestEveryBitOfTheTagCounts flips each, and two at a time: a comparison in pieces
// must not let one make up for another.
func TestEveryBitOfTheTagCounts(t *testing.T) {
	needKernels(t)
	s := newSource(t)
	for _, n := range []int{0, 5, 16, 100, 250, 256, 1000} {
		p, nonce, data := s.pair(t), s.bytes(12), s.bytes(5)
		sealed := p.theirs.Seal(nil, nonce, s.bytes(n), data)
		for i := range 128 {
			for j := range i + 1 {
				bad := bytes.Clone(sealed)
				bad[n+i/8] ^= 1 << (i % 8)
				if j < i {
					bad[n+j/8] ^= 1 << (j % 8)
				}
				if _, err := p.ours.Open(nil, nonce, bad, data); err == nil {
					t.Fatalf("%d bytes opened with bits %d and %d of the tag flipped", n, i, j)
				}
			}
		}
	}
}

func FuzzAgainstCipher(f *testing.F) {
	needKernels(f)
	f.Add([]byte("0123456789abcdef"), []byte("twelve bytes"), []byte("text"), []byte("data"), uint64(1))
	f.Add(make([]byte, 32), make([]byte, 12), make([]byte, 777), make([]byte, 21), uint64(2))
	f.Fuzz(func(t *testing.T, key, nonce, text, data []byte, seed uint64) {
		key = append(bytes.Clone(key), make([]byte, 32)...)[:16+16*(len(key)%2)]
		nonce = append(bytes.Clone(nonce), make([]byte, 12)...)[:12]
		s := source{rand.New(rand.NewPCG(seed, 0))}
		p := newPair(t, key)
		if err := p.compare(s, nonce, text, data); err != nil {
			t.Error(err)
		}
		// What arrives is anything: the verdict must be the same.
		theirs, theirErr := p.theirs.Open(nil, nonce, text, data)
		ours, ourErr := p.ours.Open(nil, nonce, text, data)
		if (theirErr == nil) != (ourErr == nil) || !bytes.Equal(ours, theirs) {
			t.Errorf("opened %x as %x, %v, want %x, %v", text, ours, ourErr, theirs, theirErr)
		}
	})
}
