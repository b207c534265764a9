// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/terminator/record/gcm"
)

// TestStreamsBothWays sends a stream each way, read in pieces of any size, by ends
// that rest now and then.
func TestStreamsBothWays(t *testing.T) {
	const size = 4 << 20
	for _, suite := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
		for name, noGCM := range withAndWithoutGCM {
			t.Run(suite+name, func(t *testing.T) {
				w := openssl(t, suite, noGCM)
				for key, ends := range map[uint64][2]*Conn{1: {w.ours, w.peer}, 2: {w.peer, w.ours}} {
					from, to := ends[0], ends[1]
					var wire bytes.Buffer
					from.w = &wire
					check, stream := keyed.NewChecker(key), keyed.New(key)
					var rest []byte
					p := make([]byte, 200_000)
					for sent := 0; sent < size; {
						n := 1 + rand.IntN(len(p))
						_, _ = stream.Read(p[:n])
						if err := from.Send(p[:n:min(len(p), n+rand.IntN(2))]); err != nil {
							t.Fatal(err)
						}
						sent += n
						if rand.IntN(3) == 0 {
							from.Rest()
							to.Rest()
						}
						for wire.Len() > 0 {
							rest = append(rest, wire.Next(1+rand.IntN(60_000))...)
							data, done, err := to.Open(make([]byte, 0, len(rest)), rest)
							if err != nil {
								t.Fatal(err)
							}
							if _, err := check.Write(data); err != nil {
								t.Fatal(err)
							}
							rest = rest[done:]
						}
					}
					if len(rest) > 0 {
						t.Errorf("%d bytes are left", len(rest))
					}
				}
			})
		}
	}
}

// TestKeysAreRenewedInTime lowers the limit of RFC 8446 section 5.5.
func TestKeysAreRenewedInTime(t *testing.T) {
	w := newTwin(t, false)
	limited := *w.ours.out.suite
	limited.limit = 3
	w.ours.out.suite = &limited
	before := bytes.Clone(w.ours.out.secret.bytes())
	for i := range 20 {
		if i%2 == 1 {
			w.ours.Rest()
			w.peer.Rest()
		}
		p := bytes.Repeat([]byte{byte(i)}, 40_000)
		if err := w.ours.Send(p); err != nil {
			t.Fatal(err)
		}
		if got := w.ours.out.seq; got > limited.limit {
			t.Fatalf("a key has sealed %d records", got)
		}
		data, done, err := w.peer.Open(make([]byte, 0, 60_000), w.sent.Bytes())
		if err != nil || done != w.sent.Len() || !bytes.Equal(data, p) {
			t.Fatalf("round %d: %d bytes, %d of %d, %v", i, len(data), done, w.sent.Len(), err)
		}
		w.sent.Reset()
	}
	if bytes.Equal(w.ours.out.secret.bytes(), before) {
		t.Error("the key is the first")
	}
	w.peer.out.seq, w.ours.in.seq = math.MaxUint64, math.MaxUint64
	if _, _, err := w.ours.Open(make([]byte, 0, 100), w.record(typeData, []byte("x"), 0)); ending(err) != "protocol error" {
		t.Errorf("a sequence number beyond the last: %v", err)
	}
}

// TestTicketsAreCounted takes over after handshakes that send tickets or none.
// takeOver's peer and judge find a sequence number that is wrong.
func TestTicketsAreCounted(t *testing.T) {
	base := testConfig()
	defer func() { testConfig = func() *tls.Config { return base } }()
	for name, change := range map[string]func(*tls.Config){
		"none":                             func(c *tls.Config) { c.SessionTicketsDisabled = true },
		"one":                              func(c *tls.Config) {},
		"after a certificate is asked for": func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert },
		"wrapped": func(c *tls.Config) {
			c.WrapSession = func(tls.ConnectionState, *tls.SessionState) ([]byte, error) { return make([]byte, 5000), nil }
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := base.Clone()
			change(c)
			testConfig = func() *tls.Config { return c }
			w := newTwin(t, false)
			judge(t, w, w.record(typeData, []byte("hello"), 0))
		})
	}
}

// TestWhatStaysWithCryptoTLS looks at the handshakes that are not taken over.
func TestWhatStaysWithCryptoTLS(t *testing.T) {
	state := func(f func(*tls.ConnectionState)) *tls.ConnectionState {
		cs := &tls.ConnectionState{Version: tls.VersionTLS13, HandshakeComplete: true, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
		f(cs)
		return cs
	}
	for name, tt := range map[string]struct {
		k    Keys
		cs   *tls.ConnectionState
		want bool
	}{
		"nothing":              {Keys{client: newSecret(32), server: newSecret(32)}, state(func(*tls.ConnectionState) {}), true},
		"TLS 1.2":              {Keys{client: newSecret(32), server: newSecret(32)}, state(func(cs *tls.ConnectionState) { cs.Version = tls.VersionTLS12 }), false},
		"incomplete":           {Keys{client: newSecret(32), server: newSecret(32)}, state(func(cs *tls.ConnectionState) { cs.HandshakeComplete = false }), false},
		"unknown suite":        {Keys{client: newSecret(32), server: newSecret(32)}, state(func(cs *tls.ConnectionState) { cs.CipherSuite = 0x1304 }), false},
		"no secrets":           {Keys{}, state(func(*tls.ConnectionState) {}), false},
		"secrets of no length": {Keys{client: newSecret(48), server: newSecret(48)}, state(func(*tls.ConnectionState) {}), false},
		"a large ticket":       {Keys{client: newSecret(32), server: newSecret(32), large: true}, state(func(*tls.ConnectionState) {}), false},
	} {
		if got := tt.k.Take(tt.cs, io.Discard) != nil; got != tt.want {
			t.Errorf("%s: taken over: %t", name, got)
		}
		if tt.k.client.p != nil || tt.k.server.p != nil {
			t.Errorf("%s: secrets are left", name)
		}
	}
}

// TestNoGCM tells the two by their types.
func TestNoGCM(t *testing.T) {
	theirs, err := cryptoGCM(make([]byte, 16))
	if err != nil {
		t.Fatal(err)
	}
	for _, noGCM := range []bool{false, true} {
		w := newTwin(t, noGCM)
		for _, h := range []*half{&w.ours.in.half, &w.ours.out.half} {
			if err := h.next(); err != nil { // a KeyUpdate
				t.Fatal(err)
			}
			is, want := reflect.TypeOf(h.aead) == reflect.TypeOf(theirs), noGCM || gcm.Reason() != ""
			if is != want {
				t.Errorf("NoGCM %t: crypto/cipher's %t, want %t", noGCM, is, want)
			}
		}
	}
}

// TestKeyUpdatesOfASecond has a byte of data follow each KeyUpdate, so that none
// are in a row. The clock is synctest's.
func TestKeyUpdatesOfASecond(t *testing.T) {
	w := newTwin(t, false)
	synctest.Test(t, func(t *testing.T) {
		flood := func(n int) (data int, err error) {
			var stream []byte
			for range n {
				stream = append(stream, w.keyUpdate(t, 1)...)
				stream = append(stream, w.record(typeData, []byte("x"), 0)...)
			}
			got, _, err := w.ours.Open(make([]byte, 0, len(stream)), stream)
			return len(got), err
		}
		for range 3 {
			time.Sleep(time.Second)
			if n, err := flood(maxUpdates); n != maxUpdates || err != nil {
				t.Fatalf("%d bytes, %v", n, err)
			}
		}
		n, err := flood(1)
		if want := localError(alertUnexpectedMessage); n != 0 || !reflect.DeepEqual(err, want) {
			t.Errorf("one more in the same second: %d bytes, %v, want %v", n, err, want)
		}
	})
}

func TestSecretsAreNotPrinted(t *testing.T) {
	var k Keys
	line := []byte("CLIENT_TRAFFIC_SECRET_0 00 " + hex.EncodeToString(bytes.Repeat([]byte{0xab}, 32)) + "\n")
	if _, err := (*keyLog)(&k).Write(line); err != nil || k.client.n != 32 {
		t.Fatalf("%d bytes, %v", k.client.n, err)
	}
	if !bytes.Equal(line, make([]byte, len(line))) {
		t.Error("the line is not wiped")
	}
	c := &Conn{}
	c.in.secret = k.client
	type around struct {
		k Keys
		c *Conn
	}
	a := around{k, c}
	for _, format := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
		for _, v := range []any{k, &k, c, a, &a} {
			text := fmt.Sprintf(format, v)
			if bytes.Contains([]byte(text), []byte("abab")) || bytes.Contains([]byte(text), []byte("171 171")) || bytes.Contains([]byte(text), []byte("0xab, 0xab")) {
				t.Errorf("%s of %T: %s", format, v, text)
			}
		}
	}
	p := k.client.bytes()
	c.Wipe()
	if !bytes.Equal(p, make([]byte, len(p))) {
		t.Error("not wiped")
	}
}

func TestNothingIsSentAfterTheEnd(t *testing.T) {
	w := newTwin(t, false)
	if err := w.ours.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	n := w.sent.Len()
	if err := w.ours.Send([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if err := w.ours.CloseWrite(); !errors.Is(err, ErrClosed) {
		t.Errorf("close: %v", err)
	}
	// The peer may still send, and want new keys.
	stream := append(w.keyUpdate(t, 1), w.record(typeData, []byte("x"), 0)...)
	if data, _, err := w.ours.Open(make([]byte, 0, MaxRecord), stream); err != nil || string(data) != "x" {
		t.Errorf("open: %q, %v", data, err)
	}
	if w.sent.Len() != n {
		t.Errorf("%d bytes were sent after close_notify", w.sent.Len()-n)
	}
}

func TestRecordsCostNoAllocation(t *testing.T) {
	w := newTwin(t, false)
	w.ours.w = io.Discard
	p, dst := make([]byte, 100, 200), make([]byte, 0, MaxRecord)
	if n := testing.AllocsPerRun(1000, func() { _ = w.ours.Send(p) }); n >= 1 {
		t.Errorf("send: %v", n)
	}
	records := make([][]byte, 1002)
	for i := range records {
		records[i] = w.record(typeData, p, 0)
	}
	i := 0
	if n := testing.AllocsPerRun(1000, func() { _, _, _ = w.ours.Open(dst, records[i]); i++ }); n >= 1 {
		t.Errorf("open: %v", n)
	}
}
