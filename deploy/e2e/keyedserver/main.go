// SPDX-License-Identifier: Apache-2.0

// Command keyedserver is the backend of the cluster's tests. A connection starts
// with 8 bytes, the key of the client's stream (big endian). The server answers
// with its host name and a newline, then with one byte of stream key+1 for each
// byte of stream key that it gets, and ends its direction after the client has.
// It prints how each connection ended, as the backend saw it.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

func main() {
	log.SetFlags(log.Lmicroseconds)
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", ":7000")
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			tcp := c.(*net.TCPConn)
			key, n, err := serve(tcp, name)
			if err != nil {
				_ = tcp.SetLinger(0) // the client must not take it for an end
				log.Printf("broken %d after %d: %v", key, n, err)
			} else {
				log.Printf("finished %d after %d", key, n)
			}
			_ = tcp.Close()
		}()
	}
}

// serve returns the key and the length of a stream that the client finished.
func serve(c *net.TCPConn, name string) (key uint64, n int64, err error) {
	r := bufio.NewReader(c)
	var header [8]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, 0, err
	}
	key = binary.BigEndian.Uint64(header[:])
	if _, err := fmt.Fprintln(c, name); err != nil {
		return key, 0, err
	}
	got, answer := keyed.NewChecker(key), keyed.New(key+1)
	if _, err := io.Copy(&echo{got, answer, c}, r); err != nil {
		return key, got.N, err
	}
	return key, got.N, c.CloseWrite()
}

// echo answers each write with as many bytes of another stream.
type echo struct {
	got    io.Writer
	answer io.Reader
	to     io.Writer
}

func (e *echo) Write(p []byte) (int, error) {
	if _, err := e.got.Write(p); err != nil {
		return 0, err
	}
	if _, err := io.CopyN(e.to, e.answer, int64(len(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}
