// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// conn is a connection to keyedserver through the gateway, with a key of its own.
type conn struct {
	tls  *tls.Conn
	r    *bufio.Reader
	key  uint64
	pod  string // that answered
	sent *keyed.Stream
	got  *keyed.Checker
}

// failure says at which step a connection failed.
type failure struct {
	step string // "connect", "handshake" or "answer"
	err  error
}

func (f failure) Error() string { return f.step + ": " + f.err.Error() }
func (f failure) Unwrap() error { return f.err }

// dial connects, and returns when the backend has answered.
func (g *gateway) dial(sni string) (*conn, error) { return g.dialWithin(10*time.Second, sni) }

func (g *gateway) dialWithin(most time.Duration, sni string) (*conn, error) {
	raw, err := net.DialTimeout("tcp", net.JoinHostPort(g.address, "443"), most)
	if err != nil {
		return nil, failure{"connect", err}
	}
	c := tls.Client(raw, &tls.Config{ServerName: sni, RootCAs: g.roots})
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fail := func(step string, err error) (*conn, error) {
		_ = raw.Close()
		return nil, failure{step, err}
	}
	if err := c.Handshake(); err != nil {
		return fail("handshake", err)
	}
	key := rand.Uint64()
	k := &conn{tls: c, r: bufio.NewReader(c), key: key, sent: keyed.New(key), got: keyed.NewChecker(key + 1)}
	if _, err := c.Write(binary.BigEndian.AppendUint64(nil, key)); err != nil {
		return fail("answer", err)
	}
	pod, err := k.r.ReadString('\n')
	if err != nil {
		return fail("answer", err)
	}
	_ = c.SetDeadline(time.Time{})
	k.pod = strings.TrimSpace(pod)
	return k, nil
}

// exchange sends n bytes and checks the n that come back.
func (c *conn) exchange(n int64) error {
	_ = c.tls.SetDeadline(time.Now().Add(time.Minute))
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c.tls, c.sent, n)
		sent <- err
	}()
	if m, err := io.CopyN(c.got, c.r, n); err != nil {
		return fmt.Errorf("after %d of %d bytes, %d in all: %w", m, n, c.got.N, err)
	}
	return <-sent
}

// finish ends the client's stream and wants the backend's end.
func (c *conn) finish() error {
	defer c.tls.Close()
	_ = c.tls.SetDeadline(time.Now().Add(time.Minute))
	if err := c.tls.CloseWrite(); err != nil {
		return err
	}
	if b, err := c.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%#x, %w instead of an end after %d bytes", b, err, c.got.N)
	}
	return nil
}

// once is a whole short connection; it returns the pod that answered.
func (g *gateway) once(sni string, n int64) (string, error) {
	c, err := g.dial(sni)
	if err != nil {
		return "", err
	}
	if err := c.exchange(n); err != nil {
		_ = c.tls.Close()
		return c.pod, failure{"stream", err}
	}
	if err := c.finish(); err != nil {
		return c.pod, failure{"end", err}
	}
	return c.pod, nil
}
