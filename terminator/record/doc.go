// SPDX-License-Identifier: Apache-2.0

// Package record carries the application data of a TLS 1.3 server connection
// after crypto/tls has done its handshake. It is for those who move bytes in
// bulk: [Conn.Open] decrypts all the records of a read at a time, [Conn.Send]
// encrypts many records into one write, and neither holds a buffer in between.
//
// [Keys] takes the traffic secrets out of a handshake, with means that
// crypto/tls offers: its key log and its hook for session tickets. [Keys.Take]
// then makes a [Conn]; where it makes none, the tls.Conn goes on as ever.
//
// What a peer may send, what is an error, and which alert tells it so are those
// of crypto/tls, for every record, with two exceptions: a handshake message that
// may not come after the handshake is answered by unexpected_message even when
// it does not parse, and so is the 101st KeyUpdate of a second. Errors are *net.OpError as crypto/tls has them: "remote
// error" for an alert that came, "local error" for one that was sent, and the
// cause is a tls.AlertError.
//
// The sealing key is renewed before it has encrypted more than RFC 8446 section
// 5.5 allows, which crypto/tls does not do.
package record

import (
	"crypto/tls"
	"errors"
	"net"
)

// Sizes of RFC 8446 sections 5.1 and 5.2, in bytes.
const (
	headerSize   = 5
	tagSize      = 16 // of every AEAD here
	maxContent   = 16 << 10
	maxEncrypted = maxContent + 256

	// MaxRecord is the size of the largest record, with its header.
	MaxRecord = headerSize + maxEncrypted
	// Expansion is what Send adds to a record's content.
	Expansion = headerSize + 1 + tagSize
)

// Types of content (RFC 8446 section 5.1).
const (
	typeChangeCipherSpec = 20
	typeAlert            = 21
	typeHandshake        = 22
	typeData             = 23
)

// Alerts (RFC 8446 section 6).
const (
	alertCloseNotify       = 0
	alertUnexpectedMessage = 10
	alertBadRecordMAC      = 20
	alertRecordOverflow    = 22
	alertDecodeError       = 50
	alertProtocolVersion   = 70
	alertInternalError     = 80
	alertUserCanceled      = 90
)

// ErrClosed is what Send returns after CloseWrite.
var ErrClosed = errors.New("write after close_notify")

func localError(alert uint8) error {
	return &net.OpError{Op: "local error", Err: tls.AlertError(alert)}
}

func remoteError(alert uint8) error {
	return &net.OpError{Op: "remote error", Err: tls.AlertError(alert)}
}
