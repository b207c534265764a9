// SPDX-License-Identifier: Apache-2.0

// Package gcm is AES-GCM at the machine's speed. Go's crypto/cipher takes eight
// blocks at a time with AES-NI; where a processor has VAES, VPCLMULQDQ and AVX-512,
// the kernels here take sixteen. Everywhere else [New] is crypto/cipher.
//
// The kernels are written by the program in folder asm, in Go: it generates
// kernel_amd64.s and stub_amd64.go. They are constant time: no branch and no
// address depends on anything but lengths.
package gcm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"sync"
)

// New returns AES-GCM with nonces of 12 bytes and tags of 16 under a key of 16, 24
// or 32 bytes. It is what cipher.NewGCM returns, with the same results, errors and
// panics, and may be used by many goroutines at a time. It keeps no reference to key.
func New(key []byte) (cipher.AEAD, error) {
	if (len(key) == 16 || len(key) == 32) && Reason() == "" {
		return newKernel(key), nil
	}
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// Reason tells why New leaves AES-GCM to crypto/cipher: what this machine lacks,
// FIPS 140-3 mode, for which the kernels are not certified, or a self-test that
// failed. It is empty where New does not, and never changes.
func Reason() string { return reason() }

var reason = sync.OnceValue(func() string {
	if fips140.Enabled() {
		return "FIPS 140-3 mode is on"
	}
	return missing()
})
