// SPDX-License-Identifier: Apache-2.0

package record

import (
	"io"
	"math"
	"time"
)

// maxUseless is how many records in a row may bring no data, and messages after
// the handshake that do not either. It is crypto/tls's.
const maxUseless = 16

// maxUpdates is how many KeyUpdates may come in a second, data between them or
// not: each has keys derived for both directions and, if it wants that, an answer
// written. crypto/tls limits those in a row only. The figure is HAProxy's
// (keyupdate-rate-limit).
const maxUpdates = 100

// Limits of crypto/tls on the size of a handshake message.
const (
	maxMessage     = 64 << 10
	maxCertificate = 256 << 10
)

// Types of handshake messages (RFC 8446 section 4).
const (
	messageCertificate = 11
	messageKeyUpdate   = 24
)

// incoming is the direction from the peer.
type incoming struct {
	half
	err     error
	useless int32
	updates int32 // in second
	second  int64 // of 1970
	message message
}

// message is what has come of a handshake message that is not complete.
type message struct {
	header [4]byte // type and length
	first  byte    // of the body
	have   int     // bytes of header
	body   int     // bytes of the body
}

func (m *message) begun() bool { return m.have > 0 }

func (m *message) size() int { return int(m.header[1])<<16 | int(m.header[2])<<8 | int(m.header[3]) }

// Open decrypts the records at the start of src and appends their data to dst,
// which must not overlap src. It stops where the rest of src is not a whole
// record or may not fit into dst's capacity, and returns how many bytes of src
// are done with. With an error, which stays, the data before it is valid. io.EOF
// is the peer's close_notify.
//
// A record that must be answered, by an alert or because the peer wants new
// keys, is answered before Open returns. Open must not be called by two
// goroutines at a time.
func (c *Conn) Open(dst, src []byte) (data []byte, done int, err error) {
	for c.in.err == nil && len(src)-done >= headerSize {
		record := src[done:]
		n := headerSize + int(record[3])<<8 + int(record[4])
		switch {
		case record[1] != 3 || record[2] != 3:
			c.fail(alertProtocolVersion)
			return dst, done, c.in.err
		case n > MaxRecord:
			c.fail(alertRecordOverflow)
			return dst, done, c.in.err
		case len(record) < n || cap(dst)-len(dst) < n:
			return dst, done, nil
		}
		done += n
		dst = c.openRecord(dst, record[:n])
	}
	return dst, done, c.in.err
}

// openRecord takes one record and appends its data to dst.
func (c *Conn) openRecord(dst, record []byte) []byte {
	in := &c.in
	kind, payload := record[0], record[headerSize:]
	if kind == typeChangeCipherSpec { // never encrypted (RFC 8446 appendix D.4)
		c.takeChangeCipherSpec(payload)
		return dst
	}
	if in.seq == math.MaxUint64 || in.wake() != nil {
		c.fail(alertInternalError)
		return dst
	}
	in.setNonce()
	data, err := in.aead.Open(dst, in.nonce[:], payload, record[:headerSize])
	inner := data[min(len(dst), len(data)):]
	switch {
	case err != nil:
		c.fail(alertBadRecordMAC)
		return dst
	case kind != typeData:
		c.fail(alertUnexpectedMessage)
		return dst
	case len(inner) > maxContent+1:
		c.fail(alertRecordOverflow)
		return dst
	}
	in.seq++
	// The last byte that is not zero is the type. crypto/tls takes a record
	// without one for empty data, but not one that is all padding.
	padded := len(inner) > 0
	for len(inner) > 0 && inner[len(inner)-1] == 0 {
		inner = inner[:len(inner)-1]
	}
	switch {
	case len(inner) > 0:
		kind, inner = inner[len(inner)-1], inner[:len(inner)-1]
	case padded:
		c.fail(alertUnexpectedMessage)
		return dst
	}
	if kind == typeData && len(inner) > 0 {
		in.useless = 0
	}
	switch {
	case kind != typeHandshake && in.message.begun():
		c.fail(alertUnexpectedMessage)
	case kind == typeData && len(inner) == 0:
		c.ignore()
	case kind == typeData:
		return data[:len(dst)+len(inner)]
	case kind == typeHandshake && len(inner) > 0:
		c.takeHandshake(inner)
	case kind == typeAlert && len(inner) == 2:
		c.takeAlert(inner[1])
	case kind == typeChangeCipherSpec:
		c.takeChangeCipherSpec(inner)
	default:
		c.fail(alertUnexpectedMessage)
	}
	return dst
}

func (c *Conn) takeChangeCipherSpec(payload []byte) {
	switch {
	case len(payload) > maxContent:
		c.fail(alertRecordOverflow)
	case c.in.message.begun():
		c.fail(alertUnexpectedMessage)
	case len(payload) != 1 || payload[0] != 1:
		c.fail(alertDecodeError)
	default:
		c.ignore()
	}
}

func (c *Conn) takeAlert(alert uint8) {
	switch alert {
	case alertCloseNotify:
		c.in.err = io.EOF
	case alertUserCanceled: // JDK sends it before close_notify
		c.ignore()
	default:
		c.in.err = remoteError(alert)
	}
}

// takeHandshake takes the content of a handshake record: part of a message, or
// one, or more.
func (c *Conn) takeHandshake(p []byte) {
	m := &c.in.message
	for len(p) > 0 {
		n := copy(m.header[m.have:], p)
		m.have += n
		p = p[n:]
		if m.have < len(m.header) {
			return
		}
		limit := maxMessage
		if m.header[0] == messageCertificate {
			limit = maxCertificate
		}
		if m.size() > limit {
			c.fail(alertInternalError)
			return
		}
		n = min(len(p), m.size()-m.body)
		if m.body == 0 && n > 0 {
			m.first = p[0]
		}
		m.body += n
		p = p[n:]
		if m.body < m.size() {
			return
		}
		last := *m
		*m = message{}
		if c.takeMessage(&last, len(p) > 0); c.in.err != nil {
			return
		}
	}
}

// takeMessage takes a whole handshake message. The only one that may come is
// KeyUpdate, and it must end its record: what follows has other keys (RFC 8446
// section 5.1).
func (c *Conn) takeMessage(m *message, more bool) {
	in := &c.in
	update := m.header[0] == messageKeyUpdate
	if update && (m.size() != 1 || m.first > 1) {
		c.fail(alertDecodeError)
		return
	}
	if in.useless++; in.useless > maxUseless || !update || in.tooManyUpdates() {
		c.fail(alertUnexpectedMessage)
		return
	}
	if m.first == 1 {
		c.answerKeyUpdate()
	}
	switch {
	case more:
		c.fail(alertUnexpectedMessage)
	case in.next() != nil:
		c.fail(alertInternalError)
	}
}

// tooManyUpdates counts a KeyUpdate.
func (in *incoming) tooManyUpdates() bool {
	if now := time.Now().Unix(); now != in.second {
		in.second, in.updates = now, 0
	}
	in.updates++
	return in.updates > maxUpdates
}

// ignore counts a record that brings nothing.
func (c *Conn) ignore() {
	if c.in.useless++; c.in.useless > maxUseless {
		c.fail(alertUnexpectedMessage)
	}
}

// fail ends both directions and tells the peer.
func (c *Conn) fail(alert uint8) {
	c.in.err = localError(alert)
	c.sendAlert(alert, c.in.err)
}
