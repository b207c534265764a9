// SPDX-License-Identifier: Apache-2.0

// Forward passes connections on by io.Copy, which is splice(2).
// usage: forward PORT ADDRESS:PORT
package main

import (
	"io"
	"log"
	"net"
	"os"
)

func main() {
	l, err := net.Listen("tcp4", ":"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go forward(c.(*net.TCPConn))
	}
}

func forward(from *net.TCPConn) {
	c, err := net.Dial("tcp", os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	to := c.(*net.TCPConn)
	done := make(chan error, 2)
	pass := func(w, r *net.TCPConn) {
		_, err := io.Copy(w, r)
		if err == nil {
			err = w.CloseWrite()
		}
		done <- err
	}
	go pass(to, from)
	go pass(from, to)
	for range 2 {
		if err := <-done; err != nil { // not an end that looks like one
			_ = from.SetLinger(0)
			_ = to.SetLinger(0)
			break
		}
	}
	from.Close()
	to.Close()
}
