// SPDX-License-Identifier: Apache-2.0

package splice

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// open opens a Splicer for the test, or skips it where there is none.
func open(t testing.TB, opts Options) *Splicer {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("SLUICE_REQUIRE_ROOT") == "1" {
			t.Fatal("the splice needs root")
		}
		t.Skip("the splice needs root")
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestEchoIsSpliced(t *testing.T) {
	s := open(t, Options{})
	l := listen(t, "tcp", "127.0.0.1:0")
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			c.Write(b[:n])
		}
	}()
	if err := s.SetEndpoints([]Endpoint{{Address: netip.MustParseAddrPort(l.Addr().String()), Route: "test/echo"}}); err != nil {
		t.Fatal(err)
	}
	c, err := s.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 5)
	for range 20 {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
	}
	end, flow := c.(*Conn).look()
	t.Logf("%+v\n%+v", end, flow)
	path, reason := c.(*Conn).Path()
	if path != PathSpliced {
		t.Errorf("path %s, reason %s", path, reason)
	}
	t.Logf("%+v", s.SelfTest())
	o, _ := s.Outcomes()
	t.Log(o, unix.SYS_SPLICE)
}
