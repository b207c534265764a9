// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// inRecords cuts the message of a record into records of n bytes each.
func inRecords(record []byte, n int) []byte {
	var out []byte
	for body := record[5:]; len(body) > 0; {
		m := min(n, len(body))
		out = append(out, record[0], record[1], record[2])
		out = binary.BigEndian.AppendUint16(out, uint16(m))
		out = append(out, body[:m]...)
		body = body[m:]
	}
	return out
}

func TestClientHelloIsReadHoweverItIsCut(t *testing.T) {
	port := freePort(t)
	snap := mixed(t, port)
	g := run(t, &Server{}, snap)
	for _, sni := range []string{"db.example.com", "pass.example.com"} {
		hello := helloBytes(t, sni)
		for name, sent := range map[string][]byte{
			"one record":            hello,
			"records of 100 bytes":  inRecords(hello, 100),
			"records of 1 byte":     inRecords(hello, 1),
			"first record of 1":     append(inRecords(hello[:6], 1), inRecords(append(hello[:5:5], hello[6:]...), 4000)...),
			"followed by a new one": append(bytes.Clone(hello), 20, 3, 3, 0, 1, 1),
		} {
			t.Run(sni+" "+name, func(t *testing.T) {
				if got := answer(t, port, sent); got != "handshake" {
					t.Errorf("at once: %s", got)
				}
				c, err := net.Dial("tcp", address(port))
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				for i := range min(len(sent), 300) {
					_, _ = c.Write(sent[i : i+1])
				}
				_, _ = c.Write(sent[min(len(sent), 300):])
				if got := answerOn(c); got != "handshake" {
					t.Errorf("byte by byte: %s", got)
				}
			})
		}
	}
	eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
}

func TestAClientHelloOf16KiBIsTakenAndNoLonger(t *testing.T) {
	port := freePort(t)
	g := run(t, &Server{}, mixed(t, port))
	hello := helloBytes(t, "db.example.com")
	for size, want := range map[int]string{16<<10 - 1: "handshake", 16 << 10: "handshake", 16<<10 + 1: "alert 50", 17 << 10: "alert 50", 40 << 10: "alert 50"} {
		sent := padded(hello, size)
		if got := answer(t, port, sent); got != want {
			t.Errorf("%d bytes at once: %s, want %s", size, got, want)
		}
		c, err := net.Dial("tcp", address(port))
		if err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(sent, 5000) {
			_, _ = c.Write(part)
		}
		if got := answerOn(c); got != want {
			t.Errorf("%d bytes, 5000 at a time: %s, want %s", size, got, want)
		}
		_ = c.Close()
	}
	eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
}

// padded is a ClientHello of size bytes, with the headers of its records: one of a
// single record that was padded (RFC 7685).
func padded(hello []byte, size int) []byte {
	at := 5 + 4 + 2 + 32
	at += 1 + int(hello[at])                           // session
	at += 2 + int(binary.BigEndian.Uint16(hello[at:])) // cipher suites
	at += 1 + int(hello[at])                           // compression
	records := (size + 5 + 16<<10 - 1) / (5 + 16<<10)  // of 16 KiB but the last
	n := size - (len(hello) - 5) - 5*records - 4       // bytes of padding
	out := bytes.Clone(hello)
	out[6], out[7], out[8] = 0, byte((size-5*records-4)>>8), byte(size-5*records-4)
	binary.BigEndian.PutUint16(out[at:], binary.BigEndian.Uint16(out[at:])+uint16(4+n))
	out = append(out, 0, 21, byte(n>>8), byte(n))
	return inRecords(append(out, make([]byte, n)...), 16<<10)
}

func TestBrokenInputEndsWithTheRightAlert(t *testing.T) {
	port := freePort(t)
	g := run(t, &Server{}, mixed(t, port))
	two := helloFor(t, "db.example.com\x00\x00\x0fxdb.example.com")
	i := bytes.Index(two, []byte("db.example.com")) - 2
	binary.BigEndian.PutUint16(two[i:], 14)
	old := helloBytes(t, "db.example.com")
	old = bytes.Replace(old, []byte{0, 43, 0, 5, 4, 3, 4, 3, 3}, []byte{0, 43, 0, 5, 4, 3, 2, 3, 1}, 1)
	for _, tt := range []struct {
		name string
		sent []byte
		want string
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: db.example.com\r\n\r\n"), "alert 10"},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n"), "alert 10"},
		{"zeros", make([]byte, 100_000), "alert 10"},
		{"SSLv2", []byte{0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10, 0}, "alert 70"},
		{"a record that is too long", []byte{22, 3, 1, 0xff, 0xff, 1}, "alert 22"},
		{"another handshake message", []byte{22, 3, 1, 0, 4, 0, 0, 0, 0}, "alert 10"},
		{"a ClientHello of nothing", []byte{22, 3, 1, 0, 4, 1, 0, 0, 0}, "alert 50"},
		{"application data", []byte{23, 3, 3, 0, 1, 0}, "alert 10"},
		{"a ClientHello of 60 KiB", inRecords(append([]byte{22, 3, 1, 0, 0, 1, 0, 0xf0, 0}, make([]byte, 60<<10)...), 16000), "alert 50"},
		{"TLS 1.1", old, "alert 70"},
		{"trailing dot", helloFor(t, "db.example.com."), "alert 50"},
		{"two names", two, "alert 50"},
		{"IPv4 address", helloFor(t, "127.0.0.1"), "reset"},
		{"IPv6 address", helloFor(t, "2001:db8::1"), "reset"},
		{"NUL in the name", helloFor(t, "db.example.com\x00"), "reset"},
		{"an alert", []byte{21, 3, 3, 0, 2, 2, 40}, "reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := answer(t, port, tt.sent); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
}

func TestAnAddressAsServerNameCountsAsNone(t *testing.T) {
	port := freePort(t)
	run(t, &Server{}, simple(port, certificateFor(t, "any", "any.example"), backend(t, echo)))
	for _, name := range []string{"127.0.0.1", "::1", "2001:db8::1"} {
		if got := answer(t, port, helloFor(t, name)); got != "handshake" {
			t.Errorf("SNI %q: %s", name, got)
		}
	}
}

func TestHandshakeHasAnAbsoluteDeadline(t *testing.T) {
	port := freePort(t)
	g := run(t, &Server{HandshakeTimeout: 300 * time.Millisecond}, simple(port, certificateFor(t, "a", "a.example"), backend(t, echo)))
	hello := helloBytes(t, "a.example")
	for name, send := range map[string]func(c net.Conn) error{
		"silence": func(net.Conn) error { return nil },
		"one byte at a time": func(c net.Conn) error {
			for i := range hello {
				if _, err := c.Write(hello[i : i+1]); err != nil {
					return err
				}
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		},
		"no second flight": func(c net.Conn) error { _, err := c.Write(hello); return err },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", address(port))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			if err := send(c); err == nil {
				_, err = io.Copy(io.Discard, c)
				if err == nil {
					t.Errorf("the connection ended as if in order")
				}
			}
			eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
		})
	}
}

func TestConnectionsOverTheLimitOfAListenerAreReset(t *testing.T) {
	port := freePort(t)
	to := backend(t, echo)
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			way.snap.Listeners[0].MaxConnections = 2
			g := run(t, way.server(), way.snap)
			a, b := way.dial(t), way.dial(t)
			eventually(t, "two connections", func() bool {
				all := g.s.Connections()
				return len(all) == 2 && all[0].Endpoint != "" && all[1].Endpoint != ""
			})
			sent := helloBytes(t, "a.example")
			if got := answer(t, port, sent); got != "reset" {
				t.Errorf("third connection: %s", got)
			}
			a.Close()
			eventually(t, "one connection", func() bool { return len(g.s.Connections()) == 1 })
			c := way.dial(t)
			roundTrip(t, b)
			roundTrip(t, c)
		})
	}
}

// roundTrip asks an echoing backend.
func roundTrip(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}
