// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"sync"
)

// Types of content (RFC 8446 section 5.1).
const (
	changeCipherSpec = 20
	alert            = 21
	handshake        = 22
	data             = 23
)

// attacker is a client that has done its handshake with crypto/tls, and seals any
// record itself from then on, with AES-128-GCM. What comes, conn reads.
type attacker struct {
	raw  *net.TCPConn
	conn *tls.Conn

	version uint16
	secret  []byte // TLS 1.3
	aead    cipher.AEAD
	iv      []byte
	seq     uint64

	// Here, lest each record allocates them.
	nonce       [12]byte
	plain, more []byte
}

// attack connects an attacker.
func attack(address string, version uint16) (*attacker, error) {
	raw, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	a := &attacker{raw: raw.(*net.TCPConn), version: version}
	var secrets keyLog
	seen := &recording{Conn: raw}
	c := client()
	c.MinVersion, c.MaxVersion, c.KeyLogWriter = version, version, &secrets
	c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} // of TLS 1.2
	a.conn = tls.Client(seen, c)
	if err := a.conn.Handshake(); err != nil {
		raw.Close()
		return nil, err
	}
	seen.over = true
	cs := a.conn.ConnectionState()
	switch {
	case version == tls.VersionTLS13 && cs.CipherSuite == tls.TLS_AES_128_GCM_SHA256:
		a.secret, err = secrets.find("CLIENT_TRAFFIC_SECRET_0")
		if err == nil {
			err = a.rekey()
		}
	case version == tls.VersionTLS12:
		err = a.keys12(&secrets, seen.in.Bytes())
	default:
		err = fmt.Errorf("the server chose %s", tls.CipherSuiteName(cs.CipherSuite))
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return a, nil
}

// keys12 derives the client's keys of TLS 1.2 (RFC 5246 section 6.3) from what
// the server has sent.
func (a *attacker) keys12(secrets *keyLog, serverHello []byte) error {
	master, err := secrets.find("CLIENT_RANDOM")
	if err != nil {
		return err
	}
	clientRandom, _ := hex.DecodeString(secrets.random)
	seed := append([]byte("key expansion"), serverHello[11:43]...)
	seed = append(seed, clientRandom...)
	var block []byte
	for x := mac(master, seed); len(block) < 2*16+2*4; x = mac(master, x) {
		block = append(block, mac(master, append(bytes.Clone(x), seed...))...)
	}
	a.iv = block[32:36]
	a.seq = 1 // after Finished
	return a.setKey(block[:16])
}

func mac(key, message []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(message)
	return h.Sum(nil)
}

// rekey derives the keys of TLS 1.3 (RFC 8446 section 7.3).
func (a *attacker) rekey() error {
	key, err := expand(a.secret, "key", 16)
	if err != nil {
		return err
	}
	if a.iv, err = expand(a.secret, "iv", 12); err != nil {
		return err
	}
	a.seq = 0
	return a.setKey(key)
}

func expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{0, byte(n), byte(len(label))}, label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
}

func (a *attacker) setKey(key []byte) error {
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	a.aead, err = cipher.NewGCM(block)
	return err
}

// record appends a record.
func (a *attacker) record(dst []byte, kind byte, content ...byte) []byte {
	seq := a.seq
	a.seq++
	a.plain = append(a.plain[:0], content...)
	copy(a.nonce[:], a.iv)
	tail := a.nonce[4:]
	if a.version == tls.VersionTLS12 {
		binary.BigEndian.PutUint64(tail, seq)
		size := len(tail) + len(content) + a.aead.Overhead()
		dst = append(dst, kind, 3, 3, byte(size>>8), byte(size))
		dst = append(dst, tail...)
		a.more = binary.BigEndian.AppendUint64(a.more[:0], seq)
		a.more = append(a.more, kind, 3, 3, byte(len(content)>>8), byte(len(content)))
		return a.aead.Seal(dst, a.nonce[:], a.plain, a.more)
	}
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^seq)
	a.plain = append(a.plain, kind)
	size := len(a.plain) + a.aead.Overhead()
	dst = append(dst, data, 3, 3, byte(size>>8), byte(size))
	return a.aead.Seal(dst, a.nonce[:], a.plain, dst[len(dst)-5:])
}

// keyUpdate appends a KeyUpdate, which asks for one in return if request is 1.
func (a *attacker) keyUpdate(dst []byte, request byte) []byte {
	dst = a.record(dst, handshake, 24, 0, 0, 1, request)
	next, err := expand(a.secret, "traffic upd", len(a.secret))
	if err != nil {
		panic(err)
	}
	a.secret = next
	if err := a.rekey(); err != nil {
		panic(err)
	}
	return dst
}

// keyLog keeps the lines of a key log.
type keyLog struct {
	mu     sync.Mutex
	lines  bytes.Buffer
	random string // of the client
}

func (l *keyLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(line)
}

func (l *keyLog) find(label string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.lines.Bytes()) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == label {
			l.random = string(f[1])
			return hex.DecodeString(string(f[2]))
		}
	}
	return nil, fmt.Errorf("no %s in the key log", label)
}

// recording keeps what is read, until it is over.
type recording struct {
	net.Conn
	in   bytes.Buffer
	over bool
}

func (r *recording) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	if !r.over {
		r.in.Write(p[:n])
	}
	return n, err
}
