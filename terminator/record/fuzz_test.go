// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// FuzzDifferential has a tls.Conn and a Conn of the same keys read and write
// alike. The input is a program of steps, two bytes each; one byte more is for
// crypto/cipher's AES-GCM.
func FuzzDifferential(f *testing.F) {
	f.Add([]byte{0, 5, 0, 255, 1, 0, 0, 9})
	f.Add([]byte{2, 1, 0, 3, 9, 7, 2, 0, 0, 3})
	f.Add([]byte{3, 24, 3, 0, 3, 0, 3, 1, 3, 1})
	f.Add([]byte{0, 8, 5, 30, 0, 1})
	f.Add([]byte{4, 90, 4, 0, 0, 3})
	f.Add([]byte{6, 1, 7, 21, 8, 3})
	f.Add([]byte{0, 200, 10, 40, 0, 2})
	f.Add([]byte{0, 200, 10, 40, 0, 2, 0})
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 80 {
			return
		}
		w := newTwin(t, len(program)%2 == 1)
		var stream []byte
		foreign := false // a handshake message other than KeyUpdate may have begun
		var fragments []byte
		flush := func() bool {
			theirs, ours := w.give(stream, 1+len(program)*7)
			stream = nil
			if foreign && theirs.end == "protocol error" && ours.end == theirs.end && bytes.Equal(theirs.data, ours.data) {
				return false // the alert may differ, see the package's doc
			}
			compare(t, theirs, ours)
			w.understand(t, ours)
			return ours.end == "more"
		}
		for ; len(program) >= 2; program = program[2:] {
			op, arg := program[0]%11, program[1]
			switch op {
			case 0:
				stream = append(stream, w.record(typeData, bytes.Repeat([]byte{arg}, int(arg)), 0)...)
			case 1:
				stream = append(stream, w.record(typeData, nil, int(arg))...)
			case 2:
				stream = append(stream, w.keyUpdate(t, arg)...)
			case 3:
				fragments = append(fragments, arg)
				foreign = foreign || len(fragments) == 1 && arg != messageKeyUpdate || len(fragments) > 5
				stream = append(stream, w.record(typeHandshake, []byte{arg}, 0)...)
			case 4:
				stream = append(stream, w.record(typeAlert, []byte{1, arg}, 0)...)
			case 5: // damages what has come, or a byte of it
				if len(stream) > 0 {
					stream[int(arg)%len(stream)] ^= 1 + arg
				}
			case 6:
				stream = append(stream, typeChangeCipherSpec, 3, 3, 0, 1, arg)
			case 7:
				stream = append(stream, w.record(arg, []byte{1, 0}, 0)...)
			case 8:
				stream = append(stream, w.forge(typeData, 0x0300|uint16(arg), []byte{1, typeData})...)
			case 9:
				if !flush() {
					return
				}
				n := int(binary.BigEndian.Uint16([]byte{arg, arg}))
				compare2(t, w, func() (verdict, verdict) { return w.write(bytes.Repeat([]byte{arg}, n)) })
			case 10: // cuts off
				stream = stream[:max(0, len(stream)-int(arg))]
			}
		}
		flush()
	})
}
