// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// order is what a client asks of the backend at the start of every piece of
// work, in order on one connection. Multi-byte fields are big endian.
type order struct {
	Work
	Key uint64
}

const orderSize = 1 + 3*8

func (o order) encode() []byte {
	b := append(make([]byte, 0, orderSize), byte(o.Op))
	b = binary.BigEndian.AppendUint64(b, o.Key)
	b = binary.BigEndian.AppendUint64(b, uint64(o.Size))
	return binary.BigEndian.AppendUint64(b, uint64(o.Count))
}

func decodeOrder(b []byte) order {
	return order{
		Key: binary.BigEndian.Uint64(b[1:]),
		Work: Work{
			Op:    Op(b[0]),
			Size:  int64(binary.BigEndian.Uint64(b[9:])),
			Count: int64(binary.BigEndian.Uint64(b[17:])),
		},
	}
}

// acknowledged is the answer to an upload that came whole and unchanged. A
// backend that saw anything else resets the connection.
const acknowledged = 'K'

// backendSetup is what the backend process is told at its start.
type backendSetup struct {
	At         netip.Addr
	Identities []identity // for clients that speak TLS to it
}

// backendAddress is where it listens, with and without TLS.
type backendAddress struct{ Plain, TLS netip.AddrPort }

// backendMain is the backend process. It listens on ports of the address that
// its parent sends, and on new ones after each further message: a connection
// of one window never meets the remains of another's. It serves until its
// standard input ends.
func backendMain(in *json.Decoder, out *json.Encoder) error {
	var setup backendSetup
	if err := in.Decode(&setup); err != nil {
		return err
	}
	config, err := serverConfig(setup.Identities)
	if err != nil {
		return err
	}
	for {
		at := &net.TCPAddr{IP: setup.At.AsSlice()}
		plain, err := net.ListenTCP("tcp", at)
		if err != nil {
			return err
		}
		secure, err := net.ListenTCP("tcp", at)
		if err != nil {
			return err
		}
		go acceptAll(plain, nil)
		go acceptAll(secure, config)
		address := backendAddress{plain.Addr().(*net.TCPAddr).AddrPort(), secure.Addr().(*net.TCPAddr).AddrPort()}
		if err := out.Encode(address); err != nil {
			return err
		}
		again := in.Decode(&struct{}{}) // fails when the parent closes the pipe or ends
		plain.Close()
		secure.Close()
		if again != nil {
			return nil
		}
	}
}

// acceptAll serves connections, over TLS unless config is nil.
func acceptAll(l *net.TCPListener, config *tls.Config) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		go func() {
			var conn net.Conn = c
			if config != nil {
				conn = tls.Server(c, config)
			}
			if err := serve(conn); err != nil {
				fmt.Fprintf(os.Stderr, "bench: backend: %v\n", err)
				_ = c.SetLinger(0) // a reset: the client must not take it for an answer
			}
			conn.Close()
		}()
	}
}

// serve does the orders of a connection until the peer ends it.
func serve(c net.Conn) error {
	head := make([]byte, orderSize)
	var buf []byte
	for {
		if _, err := io.ReadFull(c, head); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil // some gateways end an idle connection with a reset
		} else if err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		o := decodeOrder(head)
		var err error
		if need := min(max(o.Size, 1), chunk); o.Op == Echo && int64(len(buf)) < need {
			buf = make([]byte, need) // thousands of connections send a few bytes
		} else if o.Op != Echo && len(buf) < chunk {
			buf = make([]byte, chunk)
		}
		switch o.Op {
		case Upload:
			if err = receive(c, newPattern(o.Key), o.Size, buf); err == nil {
				_, err = c.Write([]byte{acknowledged})
			}
		case Download:
			err = send(c, newPattern(o.Key), o.Size)
		case Echo:
			err = echo(c, o.Work, buf)
		default:
			err = fmt.Errorf("unknown order %q", o.Op)
		}
		if err != nil {
			return fmt.Errorf("%c: %w", o.Op, err)
		}
	}
}

// send writes the first n bytes of a pattern in chunks.
func send(w io.Writer, p pattern, n int64) error {
	for at := int64(0); at < n; at += chunk {
		if _, err := w.Write(p.at(at, int(min(chunk, n-at)))); err != nil {
			return err
		}
	}
	return nil
}

// receive reads exactly n bytes and checks every one of them.
func receive(r io.Reader, p pattern, n int64, buf []byte) error {
	for at := int64(0); at < n; {
		m, err := r.Read(buf[:min(int64(len(buf)), n-at)])
		if cerr := p.check(at, buf[:m]); cerr != nil {
			return cerr
		}
		at += int64(m)
		if err != nil && at < n {
			return fmt.Errorf("after %d of %d bytes: %w", at, n, err)
		}
	}
	return nil
}

// echo returns messages as they came; the client checks them.
func echo(c io.ReadWriter, w Work, buf []byte) error {
	if w.Size > int64(len(buf)) {
		return fmt.Errorf("message of %d bytes, at most %d", w.Size, len(buf))
	}
	for range w.Count {
		if _, err := io.ReadFull(c, buf[:w.Size]); err != nil {
			return err
		}
		if _, err := c.Write(buf[:w.Size]); err != nil {
			return err
		}
	}
	return nil
}
