// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// up carries one buffer to the backend.
func (c *Looped) up() {
	if c.flushUp(); c.done == nil || c.upErr != nil || !c.backend.empty() || c.client.held() > sealedBulk+answers {
		return
	}
	if c.record == nil {
		c.upPlain()
		return
	}
	size := c.turn(&c.client)
	b := bufferOf(size)
	defer b.put()
	have := 0
	if c.rest != nil {
		have = copy(b.b, c.rest.b[:c.n])
	}
	n, err := c.client.read(b.b[have:size])
	switch {
	case errors.Is(err, unix.EAGAIN):
	case err != nil:
		c.over(clientEnd(truncated(err)), truncated(err))
	default:
		c.open(b.b[:have+n])
		c.client.bulk = have+n >= bufferSize && c.backend.empty()
	}
}

// turn is how many bytes are read at a time. Beside many others it is less, for they
// wait meanwhile: for some 100 µs where it is much.
func (c *Looped) turn(from *end) int {
	if active, _ := c.loop.Load().Active(); !from.bulk || active > crowd {
		return bufferSize
	}
	return bulkSize
}

// crowd is more than how many sockets that are busy make many others.
const crowd = 32

func (c *Looped) upPlain() {
	switch err := c.carryPlain(&c.client, &c.backend, c.progress.up); {
	case errors.Is(err, unix.EAGAIN):
	case errors.Is(err, io.EOF) && !inOrder(c.client.watch.Socket) && !c.downEnded():
		c.over(ClientReset, errReset)
	case errors.Is(err, io.EOF):
		c.upErr = err
		c.flushUp()
	case err != nil:
		c.over(ClientReset, err)
	default:
		c.flushUp()
	}
}

// open decrypts what has come and gives it to the backend. What is not a whole
// record is kept.
func (c *Looped) open(src []byte) {
	b := bufferOf(len(src))
	data, done, err := c.record.Open(b.b[:0], src)
	left := src[done:]
	switch {
	case len(left) > 0 && err == nil:
		if c.rest == nil {
			c.rest = rests.Get().(*rest)
		}
		c.n = copy(c.rest.b[:], left)
	case c.rest != nil:
		c.dropRest()
	}
	c.upErr = err
	if len(data) == 0 {
		b.put()
	} else {
		c.progress.up(len(data))
		c.backend.put(b, data)
	}
	c.flushUp()
}

func (c *Looped) dropRest() {
	if c.rest != nil {
		rests.Put(c.rest)
		c.rest = nil
	}
}

// flushUp gives the backend what waits for it, and then the end.
func (c *Looped) flushUp() {
	if err := c.backend.flush(); err != nil {
		c.over(BackendReset, err)
		return
	}
	if c.upErr == nil || c.upDone || !c.backend.empty() {
		return
	}
	if !errors.Is(c.upErr, io.EOF) {
		c.over(clientEnd(c.upErr), c.upErr)
		return
	}
	switch err := c.backend.closeWrite(); {
	case c.backend.waits(err):
	case err != nil:
		c.over(BackendReset, err)
	default:
		c.upDone = true
		c.progress.Ended.Add(1)
		c.finish()
	}
}

// down carries one buffer to the client.
func (c *Looped) down() {
	if c.flushDown(); c.done == nil || c.downErr != nil || !c.client.empty() {
		return
	}
	var err error
	if c.record == nil {
		err = c.carryPlain(&c.backend, &c.client, c.progress.down)
	} else {
		err = c.downRecords()
	}
	switch {
	case errors.Is(err, unix.EAGAIN) || c.done == nil:
	case errors.Is(err, io.EOF) && !inOrder(c.backend.watch.Socket) && !c.upEnded():
		c.over(BackendReset, errReset)
	case errors.Is(err, io.EOF):
		c.downErr = err
		c.flushDown()
	case err != nil:
		c.over(backendEnd(err), err)
	case c.record == nil:
		c.flushDown()
	}
}

// downRecords encrypts one buffer for the client.
func (c *Looped) downRecords() error {
	size := c.turn(&c.backend)
	b := bufferOf(size)
	defer b.put()
	n, err := c.backend.read(b.b[:size])
	if err != nil {
		return err
	}
	c.progress.down(n)
	if err := c.record.Send(b.b[:n]); err != nil {
		c.over(ClientReset, err)
	}
	c.backend.bulk = n >= bufferSize && c.client.empty()
	return nil
}

// upEnded tells that the client's stream came to its end in order.
func (c *Looped) upEnded() bool { return errors.Is(c.upErr, io.EOF) && c.backend.empty() }

// downEnded tells that of the backend's.
func (c *Looped) downEnded() bool { return errors.Is(c.downErr, io.EOF) && c.client.empty() }

// flushDown gives the client what waits for it, and then the end.
func (c *Looped) flushDown() {
	err := c.client.flush()
	if c.downErr != nil && !c.downDone && (c.downEnding || err == nil && c.client.empty()) {
		err = c.endDown(err)
	}
	if err != nil {
		c.over(ClientReset, err)
	}
}

// endDown sends close_notify, with TLS, and FIN, as closing.end does.
func (c *Looped) endDown(err error) error {
	client := c.client.leg.(syscall.Conn)
	if !c.downEnding {
		c.downEnding = true
		if c.record != nil {
			if info := tcpInfo(client); info.State != 0 {
				c.acked = info.Bytes_acked + uint64(outQueue(client))
			}
			err = c.record.CloseWrite()
		}
	}
	switch {
	case err == nil && !c.client.empty():
		return nil // again when the socket takes the rest
	case err == nil:
		err = c.client.leg.CloseWrite()
	}
	if err != nil && (!c.upEnded() || c.acked == 0 || tcpInfo(client).Bytes_acked < c.acked) {
		return err
	}
	c.downDone = true
	c.progress.Ended.Add(1)
	c.finish()
	return nil
}
