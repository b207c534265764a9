// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/bench/figures"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// Two gateways of one machine with the same backend, and a third one in front of
// the first, by TLS within TLS and by TCP. Each has its own connections in its maps,
// all of them carry every byte in order, and the end of one is that of its own
// connections only.
func TestGatewaysBesideAndBehindEachOther(t *testing.T) {
	needRoot(t)
	atATime, rounds := 5, 1
	if full {
		atATime, rounds = 50, 20
	}
	count := &figures.Figures{Faults: 2 * int64(rounds), What: "a gateway that is killed beside others"}
	figures.Record(t, count)
	for i := range rounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) { neighbors(t, count, atATime) })
	}
}

func neighbors(t *testing.T, count *figures.Figures, atATime int) {
	backend := serveTCP(t, echo)
	first := launch(t, backend, nil)
	tcp := freePort(t)
	first.write("objects.json", withTCP(objects(first.port, port(backend)), tcp))
	second := launch(t, backend, nil, "-pin-dir", first.pins())
	front := launch(t, backend, nil)
	over := launch(t, backend, nil)
	for g, to := range map[*gateway]string{front: first.port, over: tcp} {
		g.write("objects.json", objects(g.port, to))
	}
	nested := func() (net.Conn, error) { return first.within(front.connect()) }
	plain := func() (net.Conn, error) { return over.connect() }
	for what, connect := range map[string]func() (net.Conn, error){"TLS within TLS": nested, "TLS to TCP": plain} {
		eventually(t, what+" is routed", func() bool {
			c, err := talking(connect())
			return err == nil && c.exchange(10) == nil && c.finish() == nil
		})
	}
	var all, others []*talker
	for _, way := range []struct {
		connect func() (net.Conn, error)
		other   bool // does not pass what is killed
		resets  bool // leads to what carries by splice(2) what fills its buffers
	}{
		{func() (net.Conn, error) { return first.connect() }, true, false},
		{func() (net.Conn, error) { return second.connect() }, false, false},
		{nested, false, false},
		{plain, true, true},
	} {
		for range atATime {
			c, err := talking(way.connect())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.resets = way.resets
			all = append(all, c)
			if way.other {
				others = append(others, c)
			}
		}
	}
	exchange := func(conns []*talker) {
		t.Helper()
		errs := make(chan error, len(conns))
		for _, c := range conns {
			go func() {
				var err error
				for i := 0; i < 9 && err == nil && !c.reset; i++ {
					n := int64(4 << 10)
					if i == 8 {
						n = 1 << 20
					}
					err = c.exchange(1 + rand.Int64N(n))
				}
				// The gateway in front resets those that turn to splice(2), until it
				// knows: what came before was right.
				if c.resets && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
					c.reset, err = true, nil
				}
				errs <- err
			}()
		}
		for range conns {
			if err := <-errs; err != nil {
				count.Failures++
				t.Error(err)
			}
		}
	}
	exchange(all)
	for g, want := range map[*gateway]int{first: 2 * atATime, front: atATime} {
		eventually(t, "a gateway has its own connections in its maps", func() bool { return g.flows() == want })
	}
	for name, g := range map[string]*gateway{"first": first, "second": second, "front": front} {
		if !strings.Contains(g.conns(), `"spliced"`) {
			t.Errorf("no connection of the gateway %q is spliced: %s", name, g.conns())
		}
	}
	below, err := filepath.Glob(filepath.Join(first.pins(), "gateway*", "sl_flows"))
	if err != nil || len(below) != 1 || flows(t, below[0]) != atATime {
		t.Errorf("the second gateway of a folder for pins has %q, %v", below, err)
	}
	for _, g := range []*gateway{second, front} {
		_ = g.end(syscall.SIGKILL)
		exchange(others)
	}
	for _, c := range others {
		if c.reset {
			continue
		}
		if err := c.finish(); err != nil {
			count.Failures++
			t.Error(err)
		}
	}
	for _, c := range all {
		count.Connections++
		count.Bytes += 2 * c.got.N
	}
	if err := errors.Join(over.end(syscall.SIGTERM), first.end(syscall.SIGTERM)); err != nil {
		t.Error(err)
	}
}

// withTCP adds a TCP listener and its route.
func withTCP(objects []byte, port string) []byte {
	return []byte(strings.NewReplacer(
		`"listeners": [`, fmt.Sprintf(`"listeners": [{"name": "tcp", "protocol": "TCP", "port": %s}, `, port),
		`"items": [`, `"items": [{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute", "metadata": {"name": "tcp"}, "spec": {
			"parentRefs": [{"name": "test", "sectionName": "tcp"}], "rules": [{"backendRefs": [{"name": "test", "port": 1}]}]}},`,
	).Replace(string(objects)))
}

// within speaks TLS with the gateway over a connection that leads there.
func (g *gateway) within(outer *tls.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	c := tls.Client(strict{outer}, &tls.Config{ServerName: serverName, InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		return nil, errors.Join(err, outer.Close())
	}
	return c, nil
}

// talker is a connection to echo.
type talker struct {
	echoing
	resets bool // it may be reset
	reset  bool // and was
}

func talking(c net.Conn, err error) (*talker, error) {
	if err != nil {
		return nil, err
	}
	key := rand.Uint64()
	return &talker{echoing: echoing{c.(*tls.Conn), keyed.New(key), keyed.NewChecker(key)}}, c.SetDeadline(time.Now().Add(2 * time.Minute))
}

// flows is how many connections are in the gateway's maps.
func (g *gateway) flows() int { return flows(g.t, filepath.Join(g.pins(), "sl_flows")) }

func flows(t *testing.T, pin string) int {
	t.Helper()
	cmd := exec.Command("bpftool", "-j", "map", "dump", "pinned", pin)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	var entries []json.RawMessage
	if err == nil {
		err = json.Unmarshal(out, &entries)
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
