// SPDX-License-Identifier: Apache-2.0

package record

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// twin is one established connection twice: in its tls.Conn, and taken over.
// Both are given the same records.
type twin struct {
	suite uint16
	tls   *tls.Conn
	tape  *tape
	ours  *Conn
	sent  bytes.Buffer // by ours
	rest  []byte       // of what ours was given

	peer *Conn // reads what either sends
	send *half // seals what the peer sends
}

// verdict is what became of a stream.
type verdict struct {
	data []byte // that came out
	sent []byte // to the peer
	end  string
}

var errEndOfTape = errors.New("end of tape")

// tape is a net.Conn that can be cut off its peer, and is given bytes instead.
type tape struct {
	net.Conn
	cut  bool
	in   bytes.Buffer
	sent bytes.Buffer
}

func (t *tape) Read(p []byte) (int, error) {
	if !t.cut {
		return t.Conn.Read(p)
	}
	if t.in.Len() == 0 {
		return 0, errAgain
	}
	return t.in.Read(p)
}

func (t *tape) Write(p []byte) (int, error) {
	if !t.cut {
		return t.Conn.Write(p)
	}
	return t.sent.Write(p)
}

func (*tape) SetWriteDeadline(time.Time) error { return nil }

// errAgain is an error after which a tls.Conn can be read on.
var errAgain net.Error = again{}

type again struct{}

func (again) Error() string   { return errEndOfTape.Error() }
func (again) Timeout() bool   { return false }
func (again) Temporary() bool { return true }

var testConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		Certificates:                []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		CurvePreferences:            []tls.CurveID{tls.X25519},
		DynamicRecordSizingDisabled: true,
	}
})

// newTwin makes a twin with the suite that Go's own client gets. What the peer
// sends and reads is always with package gcm.
func newTwin(t testing.TB, noGCM bool) *twin {
	t.Helper()
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	go func() {
		c := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		_ = c.Handshake()
		_, _ = io.Copy(io.Discard, client)
	}()
	return takeOver(t, server, noGCM)
}

// openssl makes a twin with a suite that openssl insists on.
func openssl(t testing.TB, suite string, noGCM bool) *twin {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
			t.Fatal("openssl is not installed")
		}
		t.Skip("openssl is not installed")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	cmd := exec.Command("openssl", "s_client", "-connect", ln.Addr().String(), "-ciphersuites", suite, "-quiet")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	w := takeOver(t, server, noGCM)
	if got := tls.CipherSuiteName(w.suite); got != suite {
		t.Fatalf("suite %s, want %s", got, suite)
	}
	return w
}

// takeOver does the server's part of a handshake.
func takeOver(t testing.TB, server net.Conn, noGCM bool) *twin {
	t.Helper()
	k := Keys{NoGCM: noGCM}
	w := &twin{tape: &tape{Conn: server}}
	w.tls = tls.Server(w.tape, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return k.Config(testConfig()), nil
	}})
	if err := w.tls.Handshake(); err != nil {
		t.Fatal(err)
	}
	w.tape.cut = true
	cs := w.tls.ConnectionState()
	w.suite = cs.CipherSuite
	peer := &Conn{w: io.Discard}
	peer.in.suite, peer.out.suite = suites[w.suite], suites[w.suite]
	peer.in.secret, peer.out.secret = copyOf(k.server), copyOf(k.client)
	tickets := k.tickets
	if w.ours = k.Take(&cs, &w.sent); w.ours == nil {
		t.Fatal("not taken over")
	}
	if k.client.p != nil || k.server.p != nil {
		t.Error("secrets are left in Keys")
	}
	if err := errors.Join(peer.in.rekey(), peer.out.rekey()); err != nil {
		t.Fatal(err)
	}
	peer.in.seq = tickets
	w.peer, w.send = peer, &peer.out.half
	return w
}

func copyOf(s secret) secret {
	c := newSecret(s.n)
	copy(c.bytes(), s.bytes())
	return c
}

// give has both read a stream to its end, ours in pieces.
func (w *twin) give(stream []byte, piece int) (theirs, ours verdict) {
	w.tape.in.Write(stream)
	for buf := make([]byte, 32<<10); theirs.end == ""; {
		n, err := w.tls.Read(buf)
		theirs.data = append(theirs.data, buf[:n]...)
		theirs.end = ending(err)
	}
	theirs.sent = bytes.Clone(w.tape.sent.Bytes())
	w.tape.sent.Reset()

	for ours.end == "" {
		n := min(max(piece, 1), len(stream))
		w.rest = append(w.rest, stream[:n]...)
		stream = stream[n:]
		data, done, err := w.ours.Open(make([]byte, 0, len(w.rest)+MaxRecord), w.rest)
		w.rest = w.rest[done:]
		ours.data = append(ours.data, data...)
		if err == nil && len(stream) == 0 {
			err = errEndOfTape
		}
		ours.end = ending(err)
	}
	ours.sent = bytes.Clone(w.sent.Bytes())
	w.sent.Reset()
	return theirs, ours
}

// write has both send the same.
func (w *twin) write(p []byte) (theirs, ours verdict) {
	_, err := w.tls.Write(p)
	theirs = verdict{sent: bytes.Clone(w.tape.sent.Bytes()), end: ending(err)}
	w.tape.sent.Reset()
	err = w.ours.Send(p)
	ours = verdict{sent: bytes.Clone(w.sent.Bytes()), end: ending(err)}
	w.sent.Reset()
	return theirs, ours
}

// ending is the kind of an error. crypto/tls has several for a peer that broke
// the protocol.
func ending(err error) string {
	var op *net.OpError
	var alert tls.AlertError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, io.EOF):
		return "end"
	case err.Error() == errEndOfTape.Error():
		return "more"
	case errors.As(err, &op) && op.Op == "remote error":
		return op.Error()
	case errors.As(err, &alert), errors.As(err, &op):
		return "protocol error"
	}
	var header tls.RecordHeaderError
	if errors.As(err, &header) || bytes.HasPrefix([]byte(err.Error()), []byte("tls: ")) {
		return "protocol error"
	}
	return err.Error()
}

// compare fails the test where the two differ.
func compare(t testing.TB, theirs, ours verdict) {
	t.Helper()
	if !bytes.Equal(theirs.data, ours.data) {
		t.Fatalf("data: crypto/tls %s, we %s", brief(theirs.data), brief(ours.data))
	}
	if theirs.end != ours.end {
		t.Fatalf("end: crypto/tls %q, we %q", theirs.end, ours.end)
	}
	if !bytes.Equal(theirs.sent, ours.sent) {
		t.Fatalf("sent: crypto/tls %s, we %s", brief(theirs.sent), brief(ours.sent))
	}
}

func brief(p []byte) string { return fmt.Sprintf("%d bytes %.40x", len(p), p) }

// forge seals any inner plaintext under any header.
func (w *twin) forge(kind byte, version uint16, inner []byte) []byte {
	n := len(inner) + tagSize
	header := []byte{kind, byte(version >> 8), byte(version), byte(n >> 8), byte(n)}
	_ = w.send.wake() // it may rest
	w.send.setNonce()
	w.send.seq++
	return w.send.aead.Seal(header, w.send.nonce[:], inner, header)
}

// record seals content of a type, with padding.
func (w *twin) record(kind byte, content []byte, padding int) []byte {
	inner := append(append(bytes.Clone(content), kind), make([]byte, padding)...)
	return w.forge(typeData, 0x303, inner)
}

// keyUpdate sends the peer's, and goes on to its next key.
func (w *twin) keyUpdate(t testing.TB, request byte) []byte {
	r := w.record(typeHandshake, []byte{messageKeyUpdate, 0, 0, 1, request}, 0)
	if err := w.send.next(); err != nil {
		t.Fatal(err)
	}
	return r
}
