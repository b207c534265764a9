// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/agent/config"
)

// answer is what comes back for bytes that a client sends: "handshake" for a
// ServerHello, "alert 112" and the like, or "reset" and "end".
func answer(t testing.TB, port uint16, sent []byte) string {
	t.Helper()
	c, err := net.Dial("tcp", address(port))
	if errors.Is(err, syscall.ECONNRESET) {
		return "reset"
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(sent); err != nil {
		return outcome(err)
	}
	return answerOn(c)
}

func answerOn(c net.Conn) string {
	record := make([]byte, 7)
	switch _, err := io.ReadFull(c, record); {
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, io.EOF):
		return "end"
	case err != nil:
		return err.Error()
	case record[0] == 22:
		return "handshake"
	}
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		return fmt.Sprintf("alert %d, then %q, %v", record[6], rest, err)
	}
	return fmt.Sprintf("alert %d", record[6])
}

// helloFor returns a ClientHello with any bytes as its server name, which
// crypto/tls would not send.
func helloFor(t testing.TB, name string) []byte {
	t.Helper()
	stand := strings.Repeat("p", len(name))
	return bytes.Replace(helloBytes(t, stand), []byte(stand), []byte(name), 1)
}

// helloBytes returns the ClientHello record that a client would send.
func helloBytes(t testing.TB, sni string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() { _ = tls.Client(a, &tls.Config{InsecureSkipVerify: true, ServerName: sni}).Handshake() }()
	header := make([]byte, 5)
	if _, err := io.ReadFull(b, header); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(header, body...)
}

func pair(t testing.TB, c config.Certificate) tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair(c.Chain, []byte(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func certKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// protocolOf returns SO_PROTOCOL, which is 262 for MPTCP.
func protocolOf(fd int) int {
	p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return -1
	}
	return p
}
