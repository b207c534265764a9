// SPDX-License-Identifier: Apache-2.0

package gcm

import (
	"crypto/cipher"
	"errors"
	"unsafe"

	"golang.org/x/sys/cpu"
)

//go:generate go -C asm run . -out ../kernel_amd64.s -stubs ../stub_amd64.go -pkg gcm

// missing tells why the kernels cannot be used on this machine.
func missing() string {
	if why := lacking(); why != "" {
		return why
	}
	return selfTest()
}

// lacking tells what the processor does not have.
func lacking() string {
	c := &cpu.X86
	switch {
	case !c.HasAVX512F || !c.HasAVX512BW || !c.HasAVX512DQ || !c.HasAVX512VL || !c.HasBMI2:
		return "this processor has no AVX-512"
	case !c.HasAVX512VAES:
		return "this processor has no VAES"
	case !c.HasAVX512VPCLMULQDQ:
		return "this processor has no VPCLMULQDQ"
	}
	return ""
}

const (
	nonceSize  = 12
	tagSize    = 16
	maxMessage = (1<<32 - 2) * 16 // SP 800-38D section 5.2.1.1
)

var errOpen = errors.New("cipher: message authentication failed")

// kernel is a key. It is as large as one of the allocator's sizes.
type kernel struct {
	table  [496]byte // powers of H, then round keys
	rounds int
}

// newKernel takes a key of 16 or 32 bytes.
func newKernel(key []byte) cipher.AEAD {
	k := &kernel{rounds: len(key)/4 + 6}
	expand(&k.table, unsafe.SliceData(key), k.rounds)
	return k
}

func (k *kernel) NonceSize() int { return nonceSize }
func (k *kernel) Overhead() int  { return tagSize }

// Seal is documented at cipher.AEAD.
func (k *kernel) Seal(dst, nonce, plaintext, additionalData []byte) []byte {
	if len(nonce) != nonceSize {
		panic("crypto/cipher: incorrect nonce length given to GCM")
	}
	if uint64(len(plaintext)) > maxMessage {
		panic("crypto/cipher: message too large for GCM")
	}
	all, out := grow(dst, len(plaintext)+tagSize)
	checkOverlap(out, plaintext, additionalData)
	seal(&k.table, k.rounds, (*[nonceSize]byte)(nonce), unsafe.SliceData(out), unsafe.SliceData(plaintext), len(plaintext),
		unsafe.SliceData(additionalData), len(additionalData))
	return all
}

// Open is documented at cipher.AEAD. Where the tag is wrong, what was decrypted is
// cleared.
func (k *kernel) Open(dst, nonce, ciphertext, additionalData []byte) ([]byte, error) {
	if len(nonce) != nonceSize {
		panic("crypto/cipher: incorrect nonce length given to GCM")
	}
	n := len(ciphertext) - tagSize
	if n < 0 || uint64(n) > maxMessage {
		return nil, errOpen
	}
	all, out := grow(dst, n)
	checkOverlap(out, ciphertext, additionalData)
	if !open(&k.table, k.rounds, (*[nonceSize]byte)(nonce), unsafe.SliceData(out), unsafe.SliceData(ciphertext), n,
		unsafe.SliceData(additionalData), len(additionalData)) {
		clear(out)
		return nil, errOpen
	}
	return all, nil
}

// grow returns dst with n bytes more, and these.
func grow(dst []byte, n int) (all, more []byte) {
	total := len(dst) + n
	if cap(dst) >= total {
		all = dst[:total]
	} else {
		all = make([]byte, total)
		copy(all, dst)
	}
	return all, all[len(dst):]
}

// checkOverlap panics where output shares bytes with input but does not begin with
// it, or with additional data.
func checkOverlap(out, in, additionalData []byte) {
	if overlap(out, in) && unsafe.SliceData(out) != unsafe.SliceData(in) {
		panic("crypto/cipher: invalid buffer overlap of output and input")
	}
	if overlap(out, additionalData) {
		panic("crypto/cipher: invalid buffer overlap of output and additional data")
	}
}

func overlap(a, b []byte) bool {
	if len(a) == 0 || len(b) == 0 {
		return false
	}
	first, second := uintptr(unsafe.Pointer(unsafe.SliceData(a))), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return first < second+uintptr(len(b)) && second < first+uintptr(len(a))
}
