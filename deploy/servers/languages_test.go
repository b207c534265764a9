// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// Servers that send back what they get, each in the way of its language. Their
// client sends keyed streams: messages that wait for their answer, then many
// bytes both ways at once, then the end of the stream.
var languages = []server{
	{
		name: "java", version: []string{"sh", "-c", "java -version 2>&1 | head -n 1"},
		start: func(m *machine) netip.AddrPort { return m.start(7001, "java", source("Echo.java"), "7001", "read") },
		uses:  []use{{client: "keyed streams", blocks: true, run: echoes}, {client: "keyed streams by TCP", tcp: true, run: echoes}},
	}, {
		name: "java-available", version: []string{"sh", "-c", "java -version 2>&1 | head -n 1"},
		start: func(m *machine) netip.AddrPort {
			return m.start(7002, "java", source("Echo.java"), "7002", "available")
		},
		uses: []use{{client: "keyed streams", asks: true, blocks: true, run: echoes}},
	}, {
		name: "python-asyncio", version: []string{debianPython, "--version"},
		start: func(m *machine) netip.AddrPort { return m.start(7003, debianPython, source("echo.py"), "7003") },
		uses:  []use{{client: "keyed streams", run: echoes}},
	}, {
		name: "node", version: []string{"node", "--version"},
		start: func(m *machine) netip.AddrPort { return m.start(7004, "node", source("echo.js"), "7004") },
		uses:  []use{{client: "keyed streams", run: echoes}},
	}, {
		name: "go-io-copy", version: []string{"go", "version"},
		start: func(m *machine) netip.AddrPort {
			echo := m.start(7005, debianPython, source("echo.py"), "7005")
			program := filepath.Join(m.dir, "forward")
			if out, err := exec.Command("go", "build", "-o", program, "testdata/forward.go").CombinedOutput(); err != nil {
				m.t.Fatalf("%v\n%s", err, out)
			}
			return m.start(7006, program, "7006", echo.String())
		},
		uses: []use{{client: "keyed streams", splices: true, run: echoes}},
	}, {
		name: "haproxy-splice-auto", version: []string{"sh", "-c", "haproxy -v | head -n 1"},
		start: func(m *machine) netip.AddrPort {
			echo := m.start(7007, debianPython, source("echo.py"), "7007")
			return m.start(7008, "haproxy", "-f", m.file("haproxy.cfg", fmt.Sprintf(`
global
	stats socket ipv4@:7009 level user
defaults
	mode tcp
	option splice-auto
	timeout connect 10s
	timeout client 2m
	timeout server 2m
listen echo
	bind :7008
	server echo %s
`, echo)))
		},
		uses: []use{{client: "keyed streams", splices: true, run: haproxyEchoes}},
	},
}

func source(file string) string {
	path, err := filepath.Abs(filepath.Join("testdata", file))
	if err != nil {
		panic(err)
	}
	return path
}

// echoes opens a connection, for the gateway to get to know the server, and then
// eight at once.
func echoes(t *testing.T, g *gateway) (checked int64) {
	n, err := g.echo()
	if err != nil && (!g.mayReset() || !errors.Is(err, syscall.ECONNRESET)) {
		t.Errorf("the first connection: %v", err)
	}
	checked = n
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			n, err := g.echo()
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
			mu.Lock()
			defer mu.Unlock()
			checked += n
		})
	}
	wg.Wait()
	return checked
}

// haproxyEchoes are echoes that HAProxy has sent on by splice(2), which it is free to
// do or not.
func haproxyEchoes(t *testing.T, g *gateway) int64 {
	before := haproxySpliced(t)
	checked := echoes(t, g)
	if haproxySpliced(t) == before {
		t.Error("HAProxy has not used splice(2)")
	}
	return checked
}

// haproxySpliced is how many bytes HAProxy says it has sent by splice(2).
func haproxySpliced(t *testing.T) (n int64) {
	t.Helper()
	c, err := net.Dial("tcp", netip.AddrPortFrom(site.address, 7009).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "show info\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	const field = "\nTotalSplicdedBytesOut: " // so it spells it
	_, after, found := strings.Cut(string(text), field)
	if _, err := fmt.Sscan(after, &n); !found || err != nil {
		t.Fatalf("no%s in %s", field, text)
	}
	return n
}

// half is a connection whose two directions end one by one.
type half interface {
	net.Conn
	CloseWrite() error
}

// dial connects as the use does.
func (g *gateway) dial() (half, error) {
	port := g.tls
	if g.use.tcp {
		port = g.tcp
	}
	raw, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Minute)
	if err != nil {
		return nil, err
	}
	_ = raw.SetDeadline(time.Now().Add(2 * time.Minute))
	if g.use.tcp {
		return raw.(*net.TCPConn), nil
	}
	c := tls.Client(strict{raw}, &tls.Config{ServerName: name, RootCAs: g.pool})
	if err := c.Handshake(); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return c, nil
}

// strict makes a bare FIN an error: crypto/tls takes one between two records
// for an end.
type strict struct{ net.Conn }

func (s strict) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("FIN without close_notify")
	}
	return n, err
}

// echo has a stream come back, and returns how many bytes of it did.
func (g *gateway) echo() (int64, error) {
	const messages, rest = 100, 16 << 20
	c, err := g.dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	key := rand.Uint64()
	sent, got := keyed.New(key), keyed.NewChecker(key)
	for range messages {
		n := 1 + rand.Int64N(5000)
		if _, err := io.CopyN(c, sent, n); err != nil {
			return got.N, err
		}
		if _, err := io.CopyN(got, c, n); err != nil {
			return got.N, err
		}
	}
	total, written := got.N+rest, make(chan error, 1)
	go func() {
		_, err := io.CopyN(struct{ io.Writer }{c}, sent, rest)
		written <- errors.Join(err, c.CloseWrite())
	}()
	_, err = io.Copy(got, struct{ io.Reader }{c})
	if err == nil && got.N != total {
		err = fmt.Errorf("the stream ended after %d of %d bytes", got.N, total)
	}
	if err != nil {
		c.Close()
	}
	return got.N, errors.Join(err, <-written)
}
