// SPDX-License-Identifier: Apache-2.0

package record

import (
	"fmt"
	"io"
	"sync"
)

// Conn is the record layer of an established connection. One goroutine may call
// Open while another one calls Send and CloseWrite. While it is idle it is keys
// and counters.
type Conn struct {
	w   io.Writer
	in  incoming
	out outgoing
}

// outgoing is the direction to the peer.
type outgoing struct {
	mu sync.Mutex
	half
	err    error // stays
	closed bool  // close_notify was sent
}

// batch is how many records of full size leave in one write.
const batch = 4

// buffer has room for a batch, and a KeyUpdate before each record of it.
type buffer struct {
	b [batch * (maxContent + Expansion + Expansion + 5)]byte
}

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// Format keeps secrets out of every output.
func (c *Conn) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "record.Conn") }

// Rest gives up the expanded keys, some 500 bytes for each direction, until they
// are needed again: that takes some microseconds then. It must not be called while
// Open is.
func (c *Conn) Rest() {
	c.in.aead = nil
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.aead = nil
}

// SetWriter has records go to w from now on. Nothing else may be called meanwhile.
func (c *Conn) SetWriter(w io.Writer) { c.w = w }

// Wipe forgets the secrets. Nothing else may be called after it.
func (c *Conn) Wipe() {
	c.in.secret.wipe()
	c.out.secret.wipe()
}

// Send encrypts p and writes it, up to 64 KiB at a time. Nothing is kept back,
// and an empty p sends nothing. Meanwhile the bytes of p, and one beyond if its
// capacity has that, change and change back: nobody else may look at them.
func (c *Conn) Send(p []byte) error {
	out := &c.out
	out.mu.Lock()
	defer out.mu.Unlock()
	if err := out.open(); err != nil {
		return err
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for len(p) > 0 {
		records := b.b[:0]
		for i := 0; i < batch && len(p) > 0; i++ {
			if out.seq >= out.suite.limit {
				records = out.updateKey(records)
			}
			if out.err != nil {
				return out.err
			}
			n := min(len(p), maxContent)
			records = out.seal(records, typeData, p[:n])
			p = p[n:]
		}
		if err := c.writeLocked(records); err != nil {
			return err
		}
	}
	return nil
}

// CloseWrite sends close_notify. Nothing is sent after it.
func (c *Conn) CloseWrite() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if err := c.out.open(); err != nil {
		return err
	}
	c.out.closed = true
	return c.sendLocked(typeAlert, 1, alertCloseNotify)
}

// sendAlert sends a fatal alert, after which every Send fails with err.
func (c *Conn) sendAlert(alert uint8, err error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.open() == nil {
		_ = c.sendLocked(typeAlert, 2, alert)
	}
	c.out.err = err
}

// answerKeyUpdate sends a KeyUpdate of our own, as the peer wants it (RFC 8446
// section 4.6.3). An error of it is one of the next Send.
func (c *Conn) answerKeyUpdate() {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	if c.out.open() != nil {
		return
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	if records := c.out.updateKey(b.b[:0]); c.out.err == nil {
		_ = c.writeLocked(records)
	}
}

// sendLocked sends one short record. c.out.mu is held.
func (c *Conn) sendLocked(kind byte, content ...byte) error {
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	return c.writeLocked(c.out.seal(b.b[:0], kind, content))
}

func (c *Conn) writeLocked(records []byte) error {
	if c.out.err != nil {
		return c.out.err
	}
	_, c.out.err = c.w.Write(records)
	return c.out.err
}

// open tells why nothing can be sent any more, if so.
func (o *outgoing) open() error {
	if o.err == nil && o.closed {
		return ErrClosed
	}
	if o.err == nil {
		o.err = o.wake()
	}
	return o.err
}

// updateKey appends a KeyUpdate, which asks for none in return, and goes on to
// the next key.
func (o *outgoing) updateKey(dst []byte) []byte {
	dst = o.seal(dst, typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, 0})
	if err := o.next(); err != nil {
		o.err = err
	}
	return dst
}

// seal appends a record to dst, whose capacity has room for it.
func (o *outgoing) seal(dst []byte, kind byte, content []byte) []byte {
	n := len(content)
	size := n + 1 + tagSize
	at := len(dst)
	dst = append(dst, typeData, 3, 3, byte(size>>8), byte(size))
	header := dst[at:]
	o.setNonce()
	o.seq++
	if cap(content) == n {
		body := append(append(dst, content...), kind)[len(dst):]
		return o.aead.Seal(dst, o.nonce[:], body, header)
	}
	// The type stands where the next byte of content does for a moment: that
	// saves a copy.
	plain := content[:n+1]
	after := plain[n]
	plain[n] = kind
	dst = o.aead.Seal(dst, o.nonce[:], plain, header)
	plain[n] = after
	return dst
}
