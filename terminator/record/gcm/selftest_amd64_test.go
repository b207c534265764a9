// SPDX-License-Identifier: Apache-2.0

package gcm

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"testing"
)

// TestKnownAnswersAreRight asks crypto/cipher.
func TestKnownAnswersAreRight(t *testing.T) {
	for _, a := range answers {
		b, err := aes.NewCipher(counting(a.text, a.key))
		if err != nil {
			t.Fatal(err)
		}
		aead, err := cipher.NewGCM(b)
		if err != nil {
			t.Fatal(err)
		}
		sealed := aead.Seal(nil, counting(a.text, nonceSize), counting(a.text, a.text), counting(a.text, 21))
		if got := hex.EncodeToString(sealed[a.text:]); got != a.tag {
			t.Errorf("key of %d bytes, %d bytes: %s, want %s", a.key, a.text, got, a.tag)
		}
	}
}

// TestSelfTest passes, and finds that an answer is wrong. Other tests are skipped
// where it fails.
func TestSelfTest(t *testing.T) {
	if why := lacking(); why != "" {
		t.Skip(why)
	}
	if why := selfTest(); why != "" {
		t.Fatal(why)
	}
	for i := range answers {
		right := answers[i].tag
		answers[i].tag = "00" + right[2:]
		if selfTest() == "" {
			t.Errorf("a wrong answer %d was not noticed", i)
		}
		answers[i].tag = right
	}
}
