// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/sluice-gateway/sluice/bench/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Of(m.Run).Run()) }

func TestBytesCrossAVethPairBetweenTwoNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	var ns [2]*NS
	for i := range ns {
		var err error
		if ns[i], err = New(); err != nil {
			t.Fatal(err)
		}
		defer ns[i].Close()
	}
	err := Veth(ns[0], ns[1], "sltest0",
		[]netip.Prefix{netip.MustParsePrefix("10.231.1.1/24"), netip.MustParsePrefix("fd00:231:1::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("10.231.1.2/24"), netip.MustParsePrefix("fd00:231:1::2/64")})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"10.231.1.2:7000", "[fd00:231:1::2]:7000"} {
		l, err := ns[1].Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = io.WriteString(c, "hello")
				c.Close()
			}
		}()
		err = ns[0].Do(func() error {
			c, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			defer c.Close()
			got, err := io.ReadAll(c)
			if string(got) != "hello" {
				t.Errorf("%s: read %q", address, got)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		l.Close()
	}
}
