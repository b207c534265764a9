// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"hash"
	"math"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// suite is a cipher suite of TLS 1.3.
type suite struct {
	hash   func() hash.Hash
	keyLen int
	aead   func(key []byte) (cipher.AEAD, error)
	// limit is how many records a key may seal. RFC 8446 section 5.5 has 2^24.5
	// of full size for AES-GCM, and none for ChaCha20-Poly1305 before the
	// sequence number ends.
	limit uint64
}

const limitGCM = 1 << 24

// The suites, and the same without package gcm.
var (
	suites      = suitesWith(gcm.New)
	suitesNoGCM = suitesWith(cryptoGCM)
)

func suitesWith(newGCM func(key []byte) (cipher.AEAD, error)) map[uint16]*suite {
	return map[uint16]*suite{
		tls.TLS_AES_128_GCM_SHA256:       {sha256.New, 16, newGCM, limitGCM},
		tls.TLS_AES_256_GCM_SHA384:       {sha512.New384, 32, newGCM, limitGCM},
		tls.TLS_CHACHA20_POLY1305_SHA256: {sha256.New, 32, chacha20poly1305.New, math.MaxUint64},
	}
}

func cryptoGCM(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// half is the keys of one direction.
type half struct {
	suite  *suite
	secret secret
	aead   cipher.AEAD
	iv     [12]byte
	nonce  [12]byte // here because what is passed to an interface escapes
	seq    uint64
}

// rekey derives key and iv from the secret (RFC 8446 section 7.3).
func (h *half) rekey() error {
	iv, err := h.expand("iv", len(h.iv))
	if err != nil {
		return err
	}
	copy(h.iv[:], iv)
	h.seq = 0
	h.aead = nil
	return h.wake()
}

// wake derives the key, unless that is there.
func (h *half) wake() error {
	if h.aead != nil {
		return nil
	}
	key, err := h.expand("key", h.suite.keyLen)
	if err != nil {
		return err
	}
	defer clear(key)
	h.aead, err = h.suite.aead(key)
	return err
}

// next goes on to the next generation of keys (RFC 8446 section 7.2).
func (h *half) next() error {
	s, err := h.expand("traffic upd", h.secret.n)
	if err != nil {
		return err
	}
	copy(h.secret.bytes(), s)
	clear(s)
	return h.rekey()
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446 section 7.1).
func (h *half) expand(label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len(label)))
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(h.suite.hash, h.secret.bytes(), string(info), n)
}

// setNonce makes the nonce of the record at hand (RFC 8446 section 5.3).
func (h *half) setNonce() {
	h.nonce = h.iv
	tail := h.nonce[4:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^h.seq)
}
