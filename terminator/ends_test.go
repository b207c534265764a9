// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

const (
	upKey, downKey = 11, 12
	streamSize     = 300_000
)

// outcome is how a stream looked to its reader: "end" only for an orderly end.
func outcome(err error) string {
	switch {
	case err == nil:
		return "end"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "truncated"
	}
	return err.Error()
}

// strict reads to an end and does not take a reset for one: when a write on the
// same socket was told of it, reads see a plain 0.
func strict(c half) error {
	_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	if err != nil {
		return err
	}
	if tcp, ok := c.(*net.TCPConn); ok && closed(tcp) {
		return syscall.ECONNRESET
	}
	return nil
}

func closed(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	state := uint8(unix.BPF_TCP_CLOSE)
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			state = info.State
		}
	})
	return state == unix.BPF_TCP_CLOSE
}

// raw is the socket under a client.
func raw(c half) *net.TCPConn {
	if tc, ok := c.(*tls.Conn); ok {
		return tc.NetConn().(strictConn).TCPConn
	}
	return c.(*net.TCPConn)
}

// waitResult waits for the access log of one connection.
func (g *gateway) waitResult(t *testing.T, want string) {
	t.Helper()
	eventually(t, "a connection that ended as "+want, func() bool {
		return strings.Contains(g.access.String(), `"result":"`+want+`"`)
	})
}

// TestEitherEndMayFinishFirst is the matrix of half-closes: who ends first, and
// what the other still sends after that.
func TestEitherEndMayFinishFirst(t *testing.T) {
	for _, tt := range []struct {
		name            string
		client, backend []string
	}{
		{"client first, answer after its end", []string{"send", "end", "receive"}, []string{"receive", "send", "end"}},
		{"backend first, client sends after that", []string{"receive", "send", "end"}, []string{"send", "end", "receive"}},
		{"both at once", []string{"send", "end", "receive"}, []string{"send", "end", "receive"}},
		{"nothing but ends", []string{"end"}, []string{"end"}},
		{"client sends only", []string{"send", "end"}, []string{"receive", "end"}},
		{"backend sends only", []string{"receive", "end"}, []string{"send", "end"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := freePort(t)
			done := make(chan error, 1)
			to := backend(t, func(c half) { done <- act(c, tt.backend, downKey, upKey) })
			for name, way := range ways(t, port, to) {
				t.Run(name, func(t *testing.T) {
					g := run(t, way.server(), way.snap)
					c := way.dial(t)
					if err := act(c, tt.client, upKey, downKey); err != nil {
						t.Errorf("client: %v", err)
					}
					if err := <-done; err != nil {
						t.Errorf("backend: %v", err)
					}
					g.waitResult(t, "done")
				})
			}
		})
	}
}

func act(c half, steps []string, mine, other uint64) error {
	for _, step := range steps {
		var err error
		switch step {
		case "send":
			err = keyed.Send(c, mine, streamSize, 50_000)
		case "receive":
			err = keyed.Receive(c, other, streamSize)
		case "end":
			err = c.CloseWrite()
		}
		if err != nil {
			return errors.Join(errors.New(step), err)
		}
	}
	// What was not part of the plan must be an orderly end.
	_, err := io.Copy(io.Discard, struct{ io.Reader }{c})
	return err
}

// TestABrokenStreamNeverLooksFinished breaks either end in every way and looks
// at the other.
func TestABrokenStreamNeverLooksFinished(t *testing.T) {
	type tc struct {
		name, result string
		client       func(t *testing.T, c half) // after a round trip
		backend      func(c half)
		clientSees   string // "" when the client broke it
		backendSees  string
	}
	cases := []tc{
		{name: "client ends TCP without close_notify", result: "client_truncated", backendSees: "reset",
			client: func(t *testing.T, c half) { _ = raw(c).CloseWrite() }},
		{name: "client closes TCP without close_notify", result: "client_truncated", backendSees: "reset",
			client: func(t *testing.T, c half) { raw(c).Close() }},
		{name: "client resets", result: "client_reset", backendSees: "reset",
			client: func(t *testing.T, c half) { raw(c).SetLinger(0); raw(c).Close() }},
		{name: "client writes a broken record", result: "client_tls_error", backendSees: "reset",
			client: func(t *testing.T, c half) { _, _ = raw(c).Write([]byte{23, 3, 3, 0, 30, 29: 0, 34: 0}) }},
		{name: "backend resets", result: "backend_reset", clientSees: "reset",
			backend: func(c half) { raw(c).SetLinger(0); raw(c).Close() }},
		{name: "backend resets after its end", result: "backend_reset", clientSees: "end",
			client: func(t *testing.T, c half) {},
			backend: func(c half) {
				_ = c.CloseWrite()
				time.Sleep(50 * time.Millisecond)
				raw(c).SetLinger(0)
				raw(c).Close()
			}},
		{name: "backend ends TCP without close_notify", result: "backend_truncated", clientSees: "reset",
			backend: func(c half) { _ = raw(c).CloseWrite(); _ = strict(c) }},
		{name: "backend writes a broken record", result: "backend_tls_error", clientSees: "reset",
			backend: func(c half) { _, _ = raw(c).Write([]byte{23, 3, 3, 0, 30, 29: 0, 34: 0}); _ = strict(c) }},
	}
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			port := freePort(t)
			seen := make(chan string, 1)
			to := backend(t, func(c half) {
				_, _ = io.CopyN(c, c, 5)
				if tt.backend != nil {
					tt.backend(c)
					return
				}
				seen <- outcome(strict(c))
			})
			for name, way := range ways(t, port, to) {
				if strings.HasPrefix(name, "tcp") && (tt.result == "client_truncated" || tt.result == "client_tls_error") ||
					!strings.HasSuffix(name, "to tls") && (tt.result == "backend_truncated" || tt.result == "backend_tls_error") {
					continue // an orderly end, or bytes like others, there
				}
				t.Run(name, func(t *testing.T) {
					g := run(t, way.server(), way.snap)
					c := way.dial(t)
					roundTrip(t, c)
					if tt.client != nil {
						tt.client(t, c)
					}
					if tt.clientSees != "" {
						if got := outcome(strict(c)); got != tt.clientSees {
							t.Errorf("client saw %s, want %s", got, tt.clientSees)
						}
						raw(c).Close()
					}
					if tt.backendSees != "" {
						if got := <-seen; got != tt.backendSees {
							t.Errorf("backend saw %s, want %s", got, tt.backendSees)
						}
					}
					if tt.clientSees != "end" {
						g.waitResult(t, tt.result)
					}
					eventually(t, "no connection left", func() bool { return len(g.s.Connections()) == 0 })
				})
			}
		})
	}
}

// TestBackendResetWhileTheClientWritesIsAReset is the case where the write to
// the backend takes the error and the read sees a plain 0.
func TestBackendResetWhileTheClientWritesIsAReset(t *testing.T) {
	port := freePort(t)
	to := backend(t, func(c half) {
		_, _ = io.CopyN(io.Discard, c, 100_000)
		_ = raw(c).SetLinger(0)
		_ = raw(c).Close()
	})
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			run(t, way.server(), way.snap)
			for range 100 {
				c := way.dial(t)
				go func() { _ = keyed.Send(c, upKey, 1<<30, 16<<10) }()
				if got := outcome(strict(c)); got == "end" {
					t.Fatal("client saw an end")
				}
				raw(c).Close()
			}
		})
	}
}

// TestASlowReaderGetsTheEndOfItsStream waits for longer than the five seconds
// that crypto/tls gives a close_notify.
func TestASlowReaderGetsTheEndOfItsStream(t *testing.T) {
	const size = 20 << 20
	to := backend(t, func(c half) {
		_ = keyed.Send(c, downKey, size, 64<<10)
		_ = c.CloseWrite()
		_ = strict(c)
	})
	for name := range ways(t, 1, to) {
		way := ways(t, freePort(t), to)[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, way.server(), way.snap)
			c := way.dial(t)
			time.Sleep(6 * time.Second)
			if err := keyed.Receive(c, downKey, size); err != nil {
				t.Error(err)
			}
			_ = c.CloseWrite()
		})
	}
}

func TestIdleConnectionsAreReset(t *testing.T) {
	seen := make(chan string, 8)
	to := backend(t, func(c half) {
		_, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		seen <- outcome(err)
	})
	for name := range ways(t, 1, to) {
		way := ways(t, freePort(t), to)[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			way.snap.Listeners[0].IdleTimeout = 2 * time.Second
			g := run(t, way.server(), way.snap)
			c := way.dial(t)
			for range 10 { // for longer than the timeout
				roundTrip(t, c)
				time.Sleep(250 * time.Millisecond)
			}
			if got := outcome(strict(c)); got != "reset" {
				t.Errorf("client saw %s", got)
			}
			if got := <-seen; got != "reset" {
				t.Errorf("backend saw %s", got)
			}
			g.waitResult(t, "idle")
		})
	}
}

func TestAConnectionThatEndedOneWayIdlesForLess(t *testing.T) {
	port := freePort(t)
	to := backend(t, func(c half) { _ = strict(c); <-t.Context().Done() })
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			s := way.server()
			s.HalfCloseTimeout = 100 * time.Millisecond
			g := run(t, s, way.snap)
			c := way.dial(t)
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got := outcome(strict(c)); got != "reset" {
				t.Errorf("client saw %s", got)
			}
			g.waitResult(t, "idle")
		})
	}
}

// TestABrokenClientIsToldWhy has clients go on sending after a broken record, or more
// records than crypto/tls ignores: what nobody reads of it must not take the alert away
// from them.
func TestABrokenClientIsToldWhy(t *testing.T) {
	port := freePort(t)
	to := backend(t, echo)
	all := ways(t, port, to)
	reasons := map[string][]byte{
		"bad record MAC":     append([]byte{23, 3, 3, 0, 64}, make([]byte, 64)...),
		"unexpected message": bytes.Repeat([]byte{20, 3, 3, 0, 1, 1}, 64), // change_cipher_spec
	}
	for _, name := range []string{"tls 1.3", "no event loop", "no gcm", "no record loop", "tls 1.2"} {
		for why, sends := range reasons {
			if name == "tls 1.2" {
				why = "bad record MAC" // that is encrypted there, too
			}
			t.Run(fmt.Sprintf("%s, %s, %d bytes", name, why, len(sends)), func(t *testing.T) {
				g := run(t, all[name].server(), all[name].snap)
				raw, err := net.Dial("tcp", address(port))
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				config := client("a.example")
				if name == "tls 1.2" {
					config.MaxVersion = tls.VersionTLS12
				}
				c := tls.Client(raw, config)
				if _, err := c.Write([]byte{1}); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				if _, err := raw.Write(sends); err != nil {
					t.Fatal(err)
				}
				for range 64 {
					if _, err := raw.Write(make([]byte, 16<<10)); err != nil {
						t.Errorf("send on: %v", err)
						break
					}
				}
				if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), why) {
					t.Errorf("the client reads: %v, want the alert", err)
				}
				g.waitResult(t, "client_tls_error")
			})
		}
	}
}
