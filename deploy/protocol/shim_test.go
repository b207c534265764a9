// SPDX-License-Identifier: Apache-2.0

//go:build protocol

package protocol

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/freeport"
	"github.com/sluice-gateway/sluice/terminator"
)

// Environment variables of a test binary that is BoGo's shim: shimEnv has the
// name of the subject, shimLogEnv a file for why tests do not apply.
const (
	shimEnv    = "SLUICE_PROTOCOL_SHIM"
	shimLogEnv = "SLUICE_PROTOCOL_SHIM_LOG"
)

// unimplemented is what a shim exits with when a test is not for it (BoringSSL's
// ssl/test/PORTING.md).
const unimplemented = 89

// clientTest is why a test of a client does not apply.
const clientTest = "a test of a client"

// shim is a server as BoGo wants it: it connects to the runner, is the TLS server
// on that connection, and sends back all bytes inverted. Only flags are known for
// which the gateway has a configuration.
type shim struct {
	port, keyFile, certFile      string
	selectALPN, expectALPN       string
	expectServerName             string
	minVersion, expectVersion    int
	resumeCount                  int
	shimWritesFirst, declineALPN bool
	isHandshaker, server         bool
}

// state is what a shim knows of a connection at its end.
type state struct {
	version   string
	alpn, sni string
}

func (s *shim) flags() *flag.FlagSet {
	f := flag.NewFlagSet("shim", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&s.port, "port", "", "")
	f.BoolVar(&s.server, "server", false, "")
	f.BoolVar(&s.isHandshaker, "is-handshaker-supported", false, "")
	f.StringVar(&s.keyFile, "key-file", "", "")
	f.StringVar(&s.certFile, "cert-file", "", "")
	f.StringVar(&s.selectALPN, "select-alpn", "", "")
	f.StringVar(&s.expectALPN, "expect-alpn", "", "")
	f.BoolVar(&s.declineALPN, "decline-alpn", false, "")
	f.StringVar(&s.expectServerName, "expect-server-name", "", "")
	f.IntVar(&s.minVersion, "min-version", 0, "")
	f.IntVar(&s.expectVersion, "expect-version", 0, "")
	f.IntVar(&s.resumeCount, "resume-count", 0, "")
	f.BoolVar(&s.shimWritesFirst, "shim-writes-first", false, "")
	// What the runner sees for itself, or what means nothing to this shim.
	for _, name := range []string{"ipv6", "expect-session-miss", "expect-session-id", "expect-no-session-id", "expect-no-session",
		"check-close-notify", "implicit-handshake", "use-early-callback", "expect-secure-renegotiation", "expect-no-secure-renegotiation"} {
		f.Bool(name, false, "")
	}
	return f
}

// shimMain is the shim's process. It returns its exit status.
func shimMain(subject string, args []string) int {
	var s shim
	err := s.flags().Parse(args)
	switch {
	case s.isHandshaker:
		fmt.Println("No")
		return 0
	case !slices.Contains(args, "-server"):
		return s.skip(clientTest)
	case err != nil:
		return s.skip(err.Error())
	case s.minVersion > 0 && s.minVersion < tls.VersionTLS12:
		return s.skip("a version before TLS 1.2")
	}
	serve, err := s.serve(subject)
	if err != nil {
		return s.skip(err.Error())
	}
	for i := range s.resumeCount + 1 {
		conn, err := s.dial()
		if err == nil {
			err = s.check(serve(conn, s.shimWritesFirst && i == 0))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return 0
}

// dial connects to the runner, which listens on IPv6 where there is that.
func (s *shim) dial() (*net.TCPConn, error) {
	conn, err := net.Dial("tcp", net.JoinHostPort("::1", s.port))
	if err != nil {
		conn, err = net.Dial("tcp", net.JoinHostPort("127.0.0.1", s.port))
	}
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

func (s *shim) skip(why string) int {
	if f, err := os.OpenFile(os.Getenv(shimLogEnv), os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
		fmt.Fprintln(f, why)
		f.Close()
	}
	return unimplemented
}

func (s *shim) check(st state, err error) error {
	switch {
	case err != nil:
		return err
	case s.expectVersion != 0 && st.version != tls.VersionName(uint16(s.expectVersion)):
		return fmt.Errorf("%s, want %s", st.version, tls.VersionName(uint16(s.expectVersion)))
	case s.declineALPN && st.alpn != "":
		return fmt.Errorf("ALPN %s, want none", st.alpn)
	case st.alpn != cmp.Or(s.expectALPN, s.selectALPN, st.alpn):
		return fmt.Errorf("ALPN %s", st.alpn)
	case st.sni != cmp.Or(s.expectServerName, st.sni):
		return fmt.Errorf("server name %s, want %s", st.sni, s.expectServerName)
	}
	return nil
}

func (s *shim) protocols() []string {
	if s.selectALPN == "" {
		return nil
	}
	return []string{s.selectALPN}
}

// serve returns what serves a connection to its end.
func (s *shim) serve(subject string) (func(*net.TCPConn, bool) (state, error), error) {
	switch subject {
	case reference.name:
		return s.bare()
	case gateway.name:
		return s.gateway(&terminator.Server{})
	case noRecord.name:
		return s.gateway(&terminator.Server{NoRecordLoop: true})
	case noEventLoop.name:
		return s.gateway(&terminator.Server{NoEventLoop: true})
	}
	return nil, fmt.Errorf("no subject %q", subject)
}

// bare is crypto/tls alone, configured as the gateway is.
func (s *shim) bare() (func(*net.TCPConn, bool) (state, error), error) {
	pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	if err != nil {
		return nil, err
	}
	config := bareConfig()
	config.Certificates, config.NextProtos = []tls.Certificate{pair}, s.protocols()
	config.MinVersion = max(config.MinVersion, uint16(s.minVersion))
	return func(conn *net.TCPConn, writesFirst bool) (state, error) {
		c := tls.Server(conn, config)
		err := c.Handshake()
		if err == nil {
			err = invert(c, writesFirst)
		}
		orderly(conn)
		cs := c.ConnectionState()
		return state{tls.VersionName(cs.Version), cs.NegotiatedProtocol, cs.ServerName}, err
	}, nil
}

// invert sends back what comes, with all bits inverted, until it ends.
func invert(c interface {
	io.ReadWriter
	CloseWrite() error
}, writesFirst bool) error {
	if writesFirst {
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := c.Read(buf)
		for i := range buf[:n] {
			buf[i] ^= 0xff
		}
		if n > 0 {
			if _, err := c.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return c.CloseWrite()
		} else if err != nil {
			return err
		}
	}
}

// orderly ends a connection to the runner, which must not get a reset for bytes
// that nobody has read before it has seen an alert.
func orderly(c *net.TCPConn) {
	_ = c.CloseWrite()
	_, _ = io.Copy(io.Discard, struct{ io.Reader }{c})
	_ = c.Close()
}

// gateway is a terminator in this process, between the runner and a backend.
func (s *shim) gateway(server *terminator.Server) (func(*net.TCPConn, bool) (state, error), error) {
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	writesFirst := make(chan bool, 1)
	go func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			first := <-writesFirst
			go func() {
				defer c.Close()
				_ = invert(c.(*net.TCPConn), first)
			}()
		}
	}()
	chain, err := os.ReadFile(s.certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(s.keyFile)
	if err != nil {
		return nil, err
	}
	port, _, err := freeport.Take() // for as long as the process lives
	if err != nil {
		return nil, err
	}
	to := backend.Addr().(*net.TCPAddr).AddrPort()
	ended := make(chan map[string]any, 1)
	server.Log, server.AccessLog = slog.New(slog.DiscardHandler), slog.New(slog.NewJSONHandler(lines{ended}, nil))
	report := server.Apply(&config.Snapshot{
		Listeners: []config.Listener{{Name: "l", Addresses: []netip.Addr{to.Addr()}, Port: port, Protocol: config.TLS,
			TLS: &config.ListenerTLS{Certificates: []string{"c"}, MinVersion: uint16(s.minVersion), ALPN: s.protocols()},
			L4:  []config.HostRoute{{Route: "r"}}}},
		Routes:       []config.Route{{Name: "r", Backends: []config.BackendRef{{Backend: "b", Weight: 1}}}},
		Backends:     []config.Backend{{Name: "b", Endpoints: []config.Endpoint{{Host: to.Addr().String(), Port: to.Port()}}}},
		Certificates: []config.Certificate{{Name: "c", Chain: chain, Key: config.Secret(key)}},
	})
	if problem := report.Listeners["l"]; problem != "" {
		return nil, errors.New(problem)
	}
	go func() { _ = server.Run(context.Background()) }()
	return func(runner *net.TCPConn, first bool) (state, error) {
		select {
		case <-writesFirst: // of a connection that did not get that far
		default:
		}
		writesFirst <- first
		c, err := net.Dial("tcp", netip.AddrPortFrom(to.Addr(), port).String())
		if err != nil {
			return state{}, err
		}
		go func() {
			_, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{runner})
			if err != nil {
				_ = c.(*net.TCPConn).SetLinger(0)
				_ = c.Close()
				return
			}
			_ = c.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(struct{ io.Writer }{runner}, struct{ io.Reader }{c})
		orderly(runner)
		_ = c.Close()
		select {
		case e := <-ended:
			text := func(key string) string { s, _ := e[key].(string); return s }
			st := state{text("tls_version"), text("alpn"), text("sni")}
			if end := text("result"); end != "done" {
				return st, fmt.Errorf("%s: %s", end, text("error"))
			}
			return st, nil
		case <-time.After(20 * time.Second):
			return state{}, errors.New("the gateway does not end the connection")
		}
	}, nil
}

// lines sends each line of JSON that is written to it.
type lines struct{ to chan<- map[string]any }

func (l lines) Write(p []byte) (int, error) {
	var e map[string]any
	if err := json.Unmarshal(bytes.TrimSpace(p), &e); err != nil {
		return 0, err
	}
	l.to <- e
	return len(p), nil
}
