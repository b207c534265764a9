// SPDX-License-Identifier: Apache-2.0

package gcm_test

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"testing"

	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// BenchmarkGCM has both implementations next to each other: run it with -count,
// and compare minima.
func BenchmarkGCM(b *testing.B) {
	needKernels(b)
	s := newSource(b)
	for _, bits := range []int{128, 256} {
		p := newPair(b, s.bytes(bits/8))
		nonce, header := s.bytes(12), s.bytes(5)
		for _, n := range []int{64, 100, 1 << 10, 4 << 10, 16 << 10} {
			text := make([]byte, n, n+16)
			sealed := p.theirs.Seal(nil, nonce, text, header)
			to := make([]byte, n)
			for _, by := range []struct {
				name string
				cipher.AEAD
			}{{"kernels", p.ours}, {"crypto", p.theirs}} {
				b.Run(fmt.Sprintf("seal/%d/%dB/%s", bits, n, by.name), func(b *testing.B) {
					b.SetBytes(int64(n))
					for b.Loop() {
						by.Seal(text[:0], nonce, text, header)
					}
				})
				b.Run(fmt.Sprintf("open/%d/%dB/%s", bits, n, by.name), func(b *testing.B) {
					b.SetBytes(int64(n))
					for b.Loop() {
						if _, err := by.Open(to[:0], nonce, sealed, header); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// BenchmarkNew is what the keys of one direction cost.
func BenchmarkNew(b *testing.B) {
	needKernels(b)
	for _, size := range []int{16, 32} {
		key := make([]byte, size)
		b.Run(fmt.Sprintf("%d/kernels", 8*size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := gcm.New(key); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%d/crypto", 8*size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				block, err := aes.NewCipher(key)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := cipher.NewGCM(block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
