// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestEveryRecordIsJudgedAsCryptoTLSDoes gives the same records to a tls.Conn
// and to a Conn of the same keys: the same data comes out, the same bytes are
// sent, and the end is of the same kind.
func TestEveryRecordIsJudgedAsCryptoTLSDoes(t *testing.T) {
	data := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	plain := func(kind byte, p ...byte) []byte { return append([]byte{kind, 3, 3, 0, byte(len(p))}, p...) }
	cases := []struct {
		name   string
		stream func(t *testing.T, w *twin) []byte
	}{
		{"data", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(100), 0) }},
		{"one byte", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(1), 0) }},
		{"a full record", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(maxContent), 0) }},
		{"a byte too much", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(maxContent+1), 0) }},
		{"padding up to the limit", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(1000), maxContent-1000) }},
		{"padding beyond the limit", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(1000), maxContent-999) }},
		{"the largest record", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(maxEncrypted-tagSize-1), 0) }},
		{"a larger one", func(t *testing.T, w *twin) []byte { return w.record(typeData, data(maxEncrypted-tagSize), 0) }},
		{"an empty record, then data", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeData, nil, 0), w.record(typeData, data(3), 0)...)
		}},
		{"an empty padded record, then data", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeData, nil, 9), w.record(typeData, data(3), 0)...)
		}},
		{"16 empty records, data, 16 again", func(t *testing.T, w *twin) (s []byte) {
			for i := range 33 {
				s = append(s, w.record(typeData, data(max(0, 1-(i-16)*(i-16))), 0)...)
			}
			return s
		}},
		{"17 empty records", func(t *testing.T, w *twin) (s []byte) {
			for range 17 {
				s = append(s, w.record(typeData, nil, 0)...)
			}
			return s
		}},
		{"no type", func(t *testing.T, w *twin) []byte {
			return append(w.forge(typeData, 0x303, nil), w.record(typeData, data(3), 0)...)
		}},
		{"nothing but padding", func(t *testing.T, w *twin) []byte { return w.forge(typeData, 0x303, make([]byte, 30)) }},
		{"unknown type inside", func(t *testing.T, w *twin) []byte { return w.record(99, data(3), 0) }},
		{"another type outside", func(t *testing.T, w *twin) []byte {
			return w.forge(typeHandshake, 0x303, append(data(3), typeData))
		}},
		{"alert in the clear", func(t *testing.T, w *twin) []byte { return plain(typeAlert, 1, 0) }},
		{"unknown type in the clear", func(t *testing.T, w *twin) []byte { return plain(77, 1, 0) }},
		{"another version", func(t *testing.T, w *twin) []byte { return w.forge(typeData, 0x301, append(data(3), typeData)) }},
		{"another version, header only", func(t *testing.T, w *twin) []byte { return []byte{23, 3, 1, 0, 9} }},
		{"oversized, header only", func(t *testing.T, w *twin) []byte { return []byte{23, 3, 3, 255, 255} }},
		{"shorter than a tag", func(t *testing.T, w *twin) []byte { return plain(typeData, 1, 2, 3) }},
		{"no payload", func(t *testing.T, w *twin) []byte { return plain(typeData) }},
		{"a bit flipped", func(t *testing.T, w *twin) []byte {
			r := w.record(typeData, data(50), 0)
			r[20] ^= 1
			return r
		}},
		{"data, then a bit flipped", func(t *testing.T, w *twin) []byte {
			r := append(w.record(typeData, data(50), 0), w.record(typeData, data(50), 0)...)
			r[len(r)-1] ^= 1
			return r
		}},
		{"a record twice", func(t *testing.T, w *twin) []byte {
			r := w.record(typeData, data(50), 0)
			return append(r, r...)
		}},
		{"a record left out", func(t *testing.T, w *twin) []byte {
			w.record(typeData, data(50), 0)
			return w.record(typeData, data(50), 0)
		}},
		{"close_notify", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeData, data(5), 0), w.record(typeAlert, []byte{1, 0}, 0)...)
		}},
		{"data after close_notify", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeAlert, []byte{1, 0}, 0), w.record(typeData, data(5), 0)...)
		}},
		{"close_notify as fatal", func(t *testing.T, w *twin) []byte { return w.record(typeAlert, []byte{2, 0}, 0) }},
		{"fatal alert", func(t *testing.T, w *twin) []byte { return w.record(typeAlert, []byte{2, 40}, 0) }},
		{"warning alert", func(t *testing.T, w *twin) []byte { return w.record(typeAlert, []byte{1, 112}, 0) }},
		{"user_canceled, then close_notify", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeAlert, []byte{1, 90}, 0), w.record(typeAlert, []byte{1, 0}, 0)...)
		}},
		{"half an alert", func(t *testing.T, w *twin) []byte { return w.record(typeAlert, []byte{1}, 0) }},
		{"two alerts in one", func(t *testing.T, w *twin) []byte { return w.record(typeAlert, []byte{1, 90, 1, 0}, 0) }},
		{"an empty alert", func(t *testing.T, w *twin) []byte { return w.record(typeAlert, nil, 0) }},
		{"change_cipher_spec", func(t *testing.T, w *twin) []byte {
			return append(plain(typeChangeCipherSpec, 1), w.record(typeData, data(5), 0)...)
		}},
		{"change_cipher_spec, encrypted", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeChangeCipherSpec, []byte{1}, 0), w.record(typeData, data(5), 0)...)
		}},
		{"another change_cipher_spec", func(t *testing.T, w *twin) []byte { return plain(typeChangeCipherSpec, 2) }},
		{"an empty change_cipher_spec", func(t *testing.T, w *twin) []byte { return plain(typeChangeCipherSpec) }},
		{"a large change_cipher_spec", func(t *testing.T, w *twin) []byte {
			return append([]byte{20, 3, 3, 0x40, 1}, data(maxContent+1)...)
		}},
		{"17 change_cipher_specs", func(t *testing.T, w *twin) []byte {
			return bytes.Repeat(plain(typeChangeCipherSpec, 1), 17)
		}},
		{"KeyUpdate", func(t *testing.T, w *twin) []byte {
			return append(w.keyUpdate(t, 0), w.record(typeData, data(5), 0)...)
		}},
		{"KeyUpdate that wants an answer", func(t *testing.T, w *twin) []byte {
			return append(w.keyUpdate(t, 1), w.record(typeData, data(5), 0)...)
		}},
		{"16 KeyUpdates, data, 16 again", func(t *testing.T, w *twin) (s []byte) {
			for range 2 {
				for range 16 {
					s = append(s, w.keyUpdate(t, 1)...)
				}
				s = append(s, w.record(typeData, data(5), 0)...)
			}
			return s
		}},
		{"17 KeyUpdates", func(t *testing.T, w *twin) (s []byte) {
			for range 17 {
				s = append(s, w.keyUpdate(t, 1)...)
			}
			return s
		}},
		{"KeyUpdate in pieces", func(t *testing.T, w *twin) (s []byte) {
			for _, b := range []byte{24, 0, 0, 1} {
				s = append(s, w.record(typeHandshake, []byte{b}, 0)...)
			}
			s = append(s, w.record(typeHandshake, []byte{1}, 3)...)
			if err := w.send.next(); err != nil {
				t.Fatal(err)
			}
			return append(s, w.record(typeData, data(5), 0)...)
		}},
		{"data between the pieces of a KeyUpdate", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeHandshake, []byte{24, 0}, 0), w.record(typeData, data(5), 0)...)
		}},
		{"close_notify between the pieces of a KeyUpdate", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeHandshake, []byte{24}, 0), w.record(typeAlert, []byte{1, 0}, 0)...)
		}},
		{"change_cipher_spec between the pieces of a KeyUpdate", func(t *testing.T, w *twin) []byte {
			return append(w.record(typeHandshake, []byte{24}, 0), plain(typeChangeCipherSpec, 1)...)
		}},
		{"two KeyUpdates in one record", func(t *testing.T, w *twin) []byte {
			return w.record(typeHandshake, []byte{24, 0, 0, 1, 0, 24, 0, 0, 1, 0}, 0)
		}},
		{"two KeyUpdates that want answers in one record", func(t *testing.T, w *twin) []byte {
			return w.record(typeHandshake, []byte{24, 0, 0, 1, 1, 24, 0, 0, 1, 1}, 0)
		}},
		{"KeyUpdate with an unknown request", func(t *testing.T, w *twin) []byte {
			return w.record(typeHandshake, []byte{24, 0, 0, 1, 2}, 0)
		}},
		{"KeyUpdate that is too long", func(t *testing.T, w *twin) []byte {
			return w.record(typeHandshake, []byte{24, 0, 0, 2, 0, 0}, 0)
		}},
		{"KeyUpdate that is empty", func(t *testing.T, w *twin) []byte {
			return w.record(typeHandshake, []byte{24, 0, 0, 0}, 0)
		}},
		{"an empty handshake record", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, nil, 0) }},
		{"Finished", func(t *testing.T, w *twin) []byte {
			return w.record(typeHandshake, append([]byte{20, 0, 0, 32}, data(32)...), 0)
		}},
		{"EndOfEarlyData", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{5, 0, 0, 0}, 0) }},
		{"HelloRequest", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{0, 0, 0, 0}, 0) }},
		{"NewSessionTicket", func(t *testing.T, w *twin) []byte {
			return w.record(typeHandshake, []byte{4, 0, 0, 15, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 2, 9, 9, 0, 0}, 0)
		}},
		{"unknown message", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{99, 0, 0, 1, 0}, 0) }},
		{"half of an unknown message", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{99, 0, 0, 2, 0}, 0) }},
		{"a message that is too large", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{24, 1, 0, 1}, 0) }},
		{"the largest message", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{24, 1, 0, 0}, 0) }},
		{"a Certificate that is too large", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{11, 4, 0, 1}, 0) }},
		{"the largest Certificate", func(t *testing.T, w *twin) []byte { return w.record(typeHandshake, []byte{11, 4, 0, 0}, 0) }},
	}
	for _, tt := range cases {
		for name, noGCM := range withAndWithoutGCM {
			t.Run(tt.name+name, func(t *testing.T) {
				w := newTwin(t, noGCM)
				judge(t, w, tt.stream(t, w))
			})
		}
	}
	for _, suite := range []string{"TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		t.Run(suite, func(t *testing.T) {
			for _, name := range []string{"data", "16 KeyUpdates, data, 16 again", "the largest record", "a bit flipped", "close_notify"} {
				i := slices.IndexFunc(cases, func(c struct {
					name   string
					stream func(t *testing.T, w *twin) []byte
				}) bool {
					return c.name == name
				})
				for _, noGCM := range withAndWithoutGCM {
					w := openssl(t, suite, noGCM)
					judge(t, w, cases[i].stream(t, w))
				}
			}
		})
	}
}

var withAndWithoutGCM = map[string]bool{"": false, ", no gcm": true}

// judge gives a stream to both, then has both send something.
func judge(t *testing.T, w *twin, stream []byte) {
	t.Helper()
	piece := len(stream)
	if rand.IntN(2) == 0 {
		piece = 1 + rand.IntN(2*headerSize)
	}
	compare2(t, w, func() (verdict, verdict) { return w.give(stream, piece) })
	for _, n := range []int{0, 1, 100, maxContent, maxContent + 1, 5*maxContent + 7} {
		compare2(t, w, func() (verdict, verdict) { return w.write(bytes.Repeat([]byte{byte(n)}, n)) })
	}
}

// compare2 compares, and looks at what was sent.
func compare2(t testing.TB, w *twin, do func() (theirs, ours verdict)) {
	t.Helper()
	theirs, ours := do()
	compare(t, theirs, ours)
	w.understand(t, ours)
}

// understand has the peer read what was sent.
func (w *twin) understand(t testing.TB, ours verdict) {
	t.Helper()
	w.peer.in.useless = -1000 // it counts what the test makes of it
	_, done, err := w.peer.Open(make([]byte, 0, len(ours.sent)+MaxRecord), ours.sent)
	if end := ending(err); end == "protocol error" || err == nil && done < len(ours.sent) {
		t.Fatalf("the peer does not understand what was sent: %v, %d of %d bytes", err, done, len(ours.sent))
	}
}
