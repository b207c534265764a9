// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// FuzzClientHello sends anything to a port that terminates and passes through,
// in two pieces, and compares what comes of it with crypto/tls that has all of it
// in memory: the same server name, and the same first answer. What is passed
// through arrives as it was sent.
func FuzzClientHello(f *testing.F) {
	port := freePort(f)
	passed := make(chan []byte, 1)
	backend := server(f, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		passed <- got
	})
	snap := &config.Snapshot{
		Routes:   []config.Route{{Name: "r", Backends: []config.BackendRef{{Backend: "b", Weight: 1}}}},
		Backends: []config.Backend{{Name: "b", Endpoints: []config.Endpoint{backend}}},
	}
	for _, hostname := range []string{"db.example.com", "*.example.com", "pass.example.com", "*.pass.example.org"} {
		l := config.Listener{Name: "l/" + hostname, Addresses: loopback, Port: port, Protocol: config.TLS, Hostname: hostname, L4: []config.HostRoute{{Route: "r"}}}
		if strings.Contains(hostname, "pass.") {
			l.TLS = &config.ListenerTLS{Passthrough: true}
		} else {
			c := certificateFor(f, hostname, hostname)
			snap.Certificates = append(snap.Certificates, c)
			l.TLS = &config.ListenerTLS{Certificates: []string{c.Name}}
		}
		snap.Listeners = append(snap.Listeners, l)
	}
	snap.Sort()
	s := &Server{Log: slog.New(slog.DiscardHandler)}
	for name, problem := range s.Apply(snap).Listeners {
		if problem != "" {
			f.Fatalf("listener %s: %s", name, problem)
		}
	}
	// Whether a handshake waits for its turn depends on how the one before it is
	// scheduled, and a client that has ended its stream by then gets no answer.
	s.turns.free = 1 << 20
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})

	for _, sni := range []string{"", "db.example.com", "a.example.com", "example.com", "pass.example.com", "x.pass.example.org", "127.0.0.1"} {
		var hello []byte
		if sni == "" || sni == "127.0.0.1" {
			hello = helloBytes(f, "")
		} else {
			hello = helloBytes(f, sni)
		}
		f.Add(hello, uint16(0))
		f.Add(hello, uint16(3))
		f.Add(inRecords(hello, 100), uint16(300))
		f.Add(append(bytes.Clone(hello), 20, 3, 3, 0, 1, 1), uint16(len(hello)))
		f.Add(hello[:len(hello)-1], uint16(7))
	}
	f.Add(helloFor(f, "db.example.com."), uint16(0))
	f.Add(helloFor(f, "db.example.com\x00"), uint16(0))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint16(4))
	f.Add([]byte{0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10, 0}, uint16(0))
	f.Add([]byte{22, 3, 1, 0xff, 0xff, 1}, uint16(0))
	f.Add([]byte{22, 3, 1, 0, 0, 22, 3, 1, 0, 0}, uint16(5))
	f.Add([]byte{21, 3, 3, 0, 2, 2, 40}, uint16(0))
	f.Fuzz(func(t *testing.T, sent []byte, cut uint16) {
		if len(sent) >= 16<<10 { // where the limit of a hello would depend on how it comes
			t.Skip()
		}
		want, through := s.inMemory(port, sent)
		c, err := net.Dial("tcp", address(port))
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			// With a reset, which leaves no port in TIME_WAIT.
			_ = c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		at := min(int(cut), len(sent))
		_, err = c.Write(sent[:at])
		if err == nil {
			_, err = c.Write(sent[at:])
		}
		_ = c.(*net.TCPConn).CloseWrite()
		got := answerOn(c)
		if got == "end" && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			got = "reset" // a socket tells of it once, and the writer was first
		}
		// An alert has the rest of the stream for itself, or is cut off by the reset
		// for what the client has sent after it.
		got, _, _ = strings.Cut(got, ",")
		if got != want {
			t.Errorf("%x in pieces of %d and %d bytes: %s, want %s", sent, at, len(sent)-at, got, want)
		}
		if through && got == want {
			if got := <-passed; !bytes.Equal(got, sent) {
				t.Errorf("%x was passed on as %x", sent, got)
			}
		}
	})
}

// inMemory is what crypto/tls makes of bytes with what a port serves, and
// whether they are to be passed through.
func (s *Server) inMemory(port uint16, sent []byte) (answer string, through bool) {
	p := s.snapshot.Load().ports[socketKey{loopback[0], port}]
	var d decision
	c := &memory{in: bytes.NewReader(sent)}
	err := tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if d = p.decide(normalName(hello.ServerName)); d.end != "" || d.passthrough {
			return nil, errVerdict
		}
		return d.config(), nil
	}}).Handshake()
	var notTLS tls.RecordHeaderError
	out := c.out.Bytes()
	switch {
	case d.end != "":
		return "reset", false
	case d.passthrough:
		return "end", true
	case len(out) >= 7 && out[0] == 22:
		return "handshake", false
	case len(out) >= 7 && out[0] == 21:
		return fmt.Sprintf("alert %d", out[6]), false
	case errors.As(err, &notTLS):
		return fmt.Sprintf("alert %d", alertUnexpectedMessage), false
	}
	return "reset", false
}

// memory is a client that has sent something and then resets.
type memory struct {
	net.Conn
	in  *bytes.Reader
	out bytes.Buffer
}

func (m *memory) Write(p []byte) (int, error) { return m.out.Write(p) }
func (m *memory) Read(p []byte) (int, error) {
	n, err := m.in.Read(p)
	if errors.Is(err, io.EOF) {
		err = syscall.ECONNRESET
	}
	return n, err
}
func (m *memory) SetWriteDeadline(time.Time) error { return nil }
func (m *memory) Close() error                     { return nil }
