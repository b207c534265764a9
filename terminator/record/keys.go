// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"crypto/fips140"
	"crypto/tls"
	"encoding/hex"
	"io"
)

// Labels of the application traffic secrets in a key log (RFC 9850 section 2.1).
const (
	labelClient = "CLIENT_TRAFFIC_SECRET_0"
	labelServer = "SERVER_TRAFFIC_SECRET_0"
)

// maxTicket is the largest ticket that is sure to have left in one record.
// Those with many certificates of a client in them may be larger.
const maxTicket = 8 << 10

// Keys are what a Conn needs to know of one connection's handshake. The zero
// value is ready. Take or Wipe must be called in the end.
type Keys struct {
	// NoGCM leaves AES-GCM to crypto/cipher everywhere (package gcm).
	NoGCM bool

	client, server secret
	tickets        uint64 // records that the server's application key has sealed
	large          bool   // a ticket was, so tickets may be wrong
}

// Config returns a copy of a server's configuration for one handshake, which
// leaves its secrets in k. It is for tls.Config.GetConfigForClient.
func (k *Keys) Config(base *tls.Config) *tls.Config {
	c := base.Clone()
	c.KeyLogWriter = (*keyLog)(k)
	wrap := base.WrapSession
	if wrap == nil {
		wrap = base.EncryptTicket
	}
	c.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		ticket, err := wrap(cs, ss)
		k.tickets++
		k.large = k.large || len(ticket) > maxTicket
		return ticket, err
	}
	return c
}

// Take returns the record layer of a connection whose handshake is complete,
// and which has given no byte to its tls.Conn since. Records go to w. It returns
// nil when the connection must stay with its tls.Conn: before TLS 1.3, in FIPS
// 140-3 mode, for which this package is not certified, and wherever something is
// not as expected. The secrets are wiped from k.
func (k *Keys) Take(cs *tls.ConnectionState, w io.Writer) *Conn {
	defer k.Wipe()
	all := suites
	if k.NoGCM {
		all = suitesNoGCM
	}
	s := all[cs.CipherSuite]
	if !cs.HandshakeComplete || cs.Version != tls.VersionTLS13 || s == nil || fips140.Enabled() || k.large {
		return nil
	}
	if k.client.n != s.hash().Size() || k.server.n != k.client.n {
		return nil
	}
	c := &Conn{w: w}
	c.in.suite, c.out.suite = s, s
	c.in.secret, c.out.secret = k.client, k.server
	k.client, k.server = secret{}, secret{}
	if c.in.rekey() != nil || c.out.rekey() != nil {
		c.Wipe()
		return nil
	}
	c.out.seq = k.tickets
	return c
}

// Wipe forgets the secrets.
func (k *Keys) Wipe() {
	k.client.wipe()
	k.server.wipe()
}

// keyLog is a key log that keeps the two secrets of application data.
type keyLog Keys

// Write takes a line. It wipes the line, against the rule of io.Writer, for
// crypto/tls leaves it to the garbage collector.
func (l *keyLog) Write(line []byte) (int, error) {
	defer clear(line)
	label, rest, _ := bytes.Cut(line, []byte(" "))
	_, value, _ := bytes.Cut(bytes.TrimSuffix(rest, []byte("\n")), []byte(" "))
	switch string(label) {
	case labelClient:
		l.client.set(value)
	case labelServer:
		l.server.set(value)
	}
	return len(line), nil
}

// secret is a traffic secret. It is behind two pointers, because fmt follows one
// in some formats of a structure around it.
type secret struct {
	p **[maxSecret]byte
	n int // bytes in use
}

// maxSecret is the size of the largest hash of a suite.
const maxSecret = 48

func newSecret(n int) secret {
	p := new([maxSecret]byte)
	return secret{&p, n}
}

// set decodes a secret; one that does not decode is none.
func (s *secret) set(value []byte) {
	s.wipe()
	n := hex.DecodedLen(len(value))
	if n > maxSecret {
		return
	}
	*s = newSecret(n)
	if _, err := hex.Decode(s.bytes(), value); err != nil {
		s.wipe()
	}
}

func (s *secret) bytes() []byte { return (*s.p)[:s.n] }

func (s *secret) wipe() {
	if s.p != nil {
		clear(s.bytes())
	}
	*s = secret{}
}
