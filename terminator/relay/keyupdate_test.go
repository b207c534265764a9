// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/terminator/record"
)

// keyring is one direction of a client that changes keys, which that of crypto/tls
// never does (TLS_AES_128_GCM_SHA256).
type keyring struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func expand(secret []byte, label string, n int) []byte {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(6+len(label)))
	info = append(info, "tls13 "+label+"\x00"...)
	b, err := hkdf.Expand(sha256.New, secret, string(info), n)
	if err != nil {
		panic(err)
	}
	return b
}

func (k *keyring) set(secret []byte) {
	b, err := aes.NewCipher(expand(secret, "key", 16))
	if err != nil {
		panic(err)
	}
	k.aead, _ = cipher.NewGCM(b)
	k.secret, k.iv, k.seq = secret, expand(secret, "iv", 12), 0
}

func (k *keyring) next() { k.set(expand(k.secret, "traffic upd", 32)) }

func (k *keyring) nonce() []byte {
	n := bytes.Clone(k.iv)
	binary.BigEndian.PutUint64(n[4:], binary.BigEndian.Uint64(n[4:])^k.seq)
	k.seq++
	return n
}

func (k *keyring) seal(kind byte, p []byte) []byte {
	n := len(p) + 1 + 16
	header := []byte{23, 3, 3, byte(n >> 8), byte(n)}
	return k.aead.Seal(header, k.nonce(), append(bytes.Clone(p), kind), header)
}

func (k *keyring) open(r io.Reader) (kind byte, p []byte, err error) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(r, header); err != nil {
		return 0, nil, err
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	if p, err = k.aead.Open(nil, k.nonce(), body, header); err != nil {
		return 0, nil, err
	}
	return p[len(p)-1], p[:len(p)-1], nil
}

// secrets is a key log.
type secrets map[string][]byte

func (s secrets) Write(line []byte) (int, error) {
	words := bytes.Fields(line)
	s[string(words[0])], _ = hex.DecodeString(string(words[2]))
	return len(line), nil
}

// renewing returns the side of a client whose keys the test has.
func renewing(t *testing.T, near, client *net.TCPConn, base *tls.Config) (side Side, in, out *keyring) {
	t.Helper()
	wire := NewWire(near)
	wire.Decide()
	var keys record.Keys
	server := tls.Server(wire, keys.Config(base))
	log := secrets{}
	shaken := make(chan error, 1)
	go func() {
		shaken <- tls.Client(client, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: log}).Handshake()
	}()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	cs := server.ConnectionState()
	if cs.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("they agreed on %s, and the keys of this test are of AES-128-GCM", tls.CipherSuiteName(cs.CipherSuite))
	}
	in, out = new(keyring), new(keyring)
	in.set(log["SERVER_TRAFFIC_SECRET_0"])
	out.set(log["CLIENT_TRAFFIC_SECRET_0"])
	return Side{Leg: near, Record: keys.Take(&cs, wire), Wire: wire}, in, out
}

// TestKeysChangeWhileBytesWait has clients ask for new keys while what they were sent
// lies unread, on connections that move and rest.
func TestKeysChangeWhileBytesWait(t *testing.T) {
	const connections, size, updates = 8, 6 << 20, 90 // a client may have 100 in a second
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	loops, err := NewLoops(2)
	if err != nil {
		t.Fatal(err)
	}
	defer loops.Close()
	base := &tls.Config{Certificates: []tls.Certificate{certificate(t)}, SessionTicketsDisabled: true}
	var streams, moving sync.WaitGroup
	var checks []func()
	stop := make(chan struct{})
	for i := range uint64(connections) {
		near, client := connected(t, ln)
		back, backend := connected(t, ln)
		side, in, out := renewing(t, near, client, base)
		ended := make(chan error, 1)
		over := func(how End, err error) {
			if how != Done {
				err = errors.Join(err, fmt.Errorf("it ended as %s", how))
			}
			ended <- err
		}
		var c *Looped
		if i%4 == 3 { // by goroutines
			go func() { over(Carry(side, Side{Leg: back}, new(Progress))) }()
		} else {
			c = loops.Prepare(side, Side{Leg: back}, new(Progress))
			c.Start(over)
		}
		asked, answered := 0, 0
		streams.Go(func() { // the client writes
			up, left := keyed.New(2*i), size
			for n := 0; left > 0; n++ {
				p := make([]byte, min(left, 1+rand.IntN(16<<10)))
				_, _ = up.Read(p)
				left -= len(p)
				b := out.seal(23, p)
				if n%8 == 0 && n/8 < updates {
					want := byte(rand.IntN(2))
					asked += int(want)
					b = append(b, out.seal(22, []byte{24, 0, 0, 1, want})...)
					out.next()
				}
				if _, err := client.Write(b); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
			}
			_, _ = client.Write(out.seal(21, []byte{1, 0}))
		})
		streams.Go(func() { // the client reads, late
			time.Sleep(100 * time.Millisecond)
			down := keyed.NewChecker(2*i + 1)
			for {
				kind, p, err := in.open(client)
				switch {
				case err != nil:
					t.Errorf("client %d reads, after %d bytes: %v", i, down.N, err)
					return
				case kind == 22 && bytes.Equal(p, []byte{24, 0, 0, 1, 0}):
					answered++
					in.next()
				case kind == 21 && bytes.Equal(p, []byte{1, 0}):
					if down.N != size {
						t.Errorf("client %d: an end after %d bytes", i, down.N)
					}
					return
				case kind != 23:
					t.Errorf("client %d got %d: %x", i, kind, p)
					return
				default:
					if _, err := down.Write(p); err != nil {
						t.Errorf("client %d: %v", i, err)
						return
					}
				}
				if rand.IntN(50) == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
		received := make(chan struct{})
		streams.Go(func() {
			defer close(received)
			if err := keyed.Receive(backend, 2*i, size); err != nil {
				t.Errorf("backend %d: %v", i, err)
			}
		})
		streams.Go(func() {
			if err := keyed.Send(backend, 2*i+1, size, 50_000); err != nil {
				t.Errorf("backend %d: %v", i, err)
			}
			<-received // before an answer cannot be sent any more
			_ = backend.CloseWrite()
		})
		checks = append(checks, func() {
			if err := <-ended; err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
			if answered != asked || asked == 0 {
				t.Errorf("connection %d: %d of %d new keys", i, answered, asked)
			}
		})
		if c == nil {
			continue
		}
		moving.Go(func() {
			for n := int(i); ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Microsecond):
				}
				c.post(func() {
					if to := loops.loops[n%2]; c.done != nil && to != c.loop.Load() {
						c.move(to)
						c.record.Rest()
					}
				})
			}
		})
	}
	streams.Wait()
	for _, check := range checks {
		check()
	}
	close(stop)
	moving.Wait()
}
