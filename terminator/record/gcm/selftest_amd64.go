// SPDX-License-Identifier: Apache-2.0

package gcm

import (
	"bytes"
	"encoding/hex"
)

// answers are the tags of messages whose key, nonce, text and additional data are
// bytes that count from the length of the message. They go through every part of the
// kernels: loop, vectors and rest, and the rest of 16 blocks.
var answers = []struct {
	key, text int // bytes
	tag       string
}{
	{16, 100, "9b677fae868e6ccc38f8c60f84221d63"},
	{16, 505, "3337e200d9bc1f78b98b472c44de51da"},
	{16, 1003, "c06d774944f44e88c8a0a0d26af15f4f"},
	{32, 100, "bc7b0c268cc43daf53356c567031a162"},
	{32, 505, "8237570d706658315d7129aca93d9213"},
	{32, 1003, "acc1d26850a3fffb62ee34d37756062a"},
}

// counting is n bytes that count from first.
func counting(first, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(first + i)
	}
	return b
}

// selfTest tells what is wrong with the kernels, if so.
func selfTest() string {
	for _, a := range answers {
		aead := newKernel(counting(a.text, a.key))
		text, nonce, data := counting(a.text, a.text), counting(a.text, nonceSize), counting(a.text, 21)
		sealed := aead.Seal(nil, nonce, text, data)
		if hex.EncodeToString(sealed[a.text:]) != a.tag {
			return "the kernels failed their self-test: wrong tag"
		}
		if opened, err := aead.Open(nil, nonce, sealed, data); err != nil || !bytes.Equal(opened, text) {
			return "the kernels failed their self-test: wrong text"
		}
		sealed[0] ^= 1
		if _, err := aead.Open(nil, nonce, sealed, data); err == nil {
			return "the kernels failed their self-test: opened a forgery"
		}
	}
	return ""
}
