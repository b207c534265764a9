// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/terminator/balance"
)

// refusing is an endpoint where nothing listens.
func refusing(t *testing.T) config.Endpoint {
	return config.Endpoint{Host: "127.0.0.1", Port: freePort(t)}
}

func TestARouteWithoutUsableEndpointResetsAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name, result string
		change       func(s *config.Snapshot)
	}{
		{"no backend", "no_endpoint", func(s *config.Snapshot) { s.Routes[0].Backends = nil }},
		{"no weight", "no_endpoint", func(s *config.Snapshot) { s.Routes[0].Backends[0].Weight = 0 }},
		{"a reference that does not resolve", "no_endpoint", func(s *config.Snapshot) { s.Routes[0].Backends[0].Backend = "" }},
		{"no endpoint", "no_endpoint", func(s *config.Snapshot) { s.Backends[0].Endpoints = nil }},
		{"every endpoint refuses", "connect_failed", func(s *config.Snapshot) {
			s.Backends[0].Endpoints = []config.Endpoint{refusing(t), refusing(t), refusing(t), refusing(t), refusing(t)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			port := freePort(t)
			for name, way := range ways(t, port, config.Endpoint{Host: "127.0.0.1", Port: 1}) {
				t.Run(name, func(t *testing.T) {
					tt.change(way.snap)
					g := run(t, way.server(), way.snap)
					var got string
					if tt.result == "no_endpoint" || strings.HasPrefix(name, "tcp") {
						got = answer(t, port, helloBytes(t, "a.example"))
					} else {
						got = outcome(strict(way.dial(t)))
					}
					if got != "reset" {
						t.Errorf("client saw %s", got)
					}
					g.waitResult(t, tt.result)
				})
			}
		})
	}
}

func TestTheNextEndpointIsTriedUntilOneAnswers(t *testing.T) {
	port := freePort(t)
	well := backend(t, echo)
	for name, way := range ways(t, port, well) {
		t.Run(name, func(t *testing.T) {
			way.snap.Backends[0].Endpoints = append(way.snap.Backends[0].Endpoints, refusing(t), refusing(t), refusing(t))
			s := &Server{Metrics: NewMetrics()}
			run(t, s, way.snap)
			for range 20 {
				c := way.dial(t)
				roundTrip(t, c)
				c.Close()
			}
			if n := count(t, s.Metrics.connectFailures.WithLabelValues(causeRefused)); n > 3 {
				t.Errorf("%v refused attempts in 20 connections: those endpoints are to be tried last", n)
			}
		})
	}
}

func TestAnEndpointThatDoesNotAnswerIsLeftAfterTheTimeout(t *testing.T) {
	port := freePort(t)
	well := backend(t, echo)
	hole := config.Endpoint{Host: "192.0.2.1", Port: 1}
	snap := simple(port, certificateFor(t, "c", "a.example"), hole, well)
	plain := &net.Dialer{}
	s := &Server{ConnectTimeout: 50 * time.Millisecond, Metrics: NewMetrics(),
		Dial: func(ctx context.Context, _ *net.TCPAddr, network, address string) (net.Conn, error) {
			if strings.HasPrefix(address, "192.0.2.1") { // the kernel may have no route to it
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return plain.DialContext(context.WithoutCancel(ctx), network, address) // however loaded the machine is
		}}
	run(t, s, snap)
	for range 10 {
		roundTrip(t, dialTLS(t, port, client("a.example")))
	}
	if n := count(t, s.Metrics.connectFailures.WithLabelValues(causeTimeout)); n > 1 {
		t.Errorf("%v attempts timed out", n)
	}
}

func TestConnectionsAreCountedAtTheirEndpoint(t *testing.T) {
	port := freePort(t)
	to := backend(t, echo)
	for name, way := range ways(t, port, to) {
		t.Run(name, func(t *testing.T) {
			g := run(t, way.server(), way.snap)
			e := func() *balance.Endpoint { return g.s.snapshot.Load().backends["b"].Endpoints()[0] }
			a, b := way.dial(t), way.dial(t)
			roundTrip(t, a)
			roundTrip(t, b)
			if n := e().Active(); n != 2 {
				t.Errorf("%d connections at the endpoint, want 2", n)
			}
			g.apply(way.snap)
			a.Close()
			b.Close()
			eventually(t, "no connection at the endpoint", func() bool { return e().Active() == 0 })
		})
	}
}

// scripted is a backend leg that is not a *net.TCPConn.
type scripted struct {
	*net.TCPConn
	path, reason string
}

func (s scripted) Path() (string, string) { return s.path, s.reason }

func TestTheBackendLegSaysItsPath(t *testing.T) {
	port := freePort(t)
	snap := simple(port, certificateFor(t, "c", "a.example"), backend(t, echo))
	s := &Server{Dial: func(ctx context.Context, _ *net.TCPAddr, network, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return scripted{c.(*net.TCPConn), "relay", "no splice today"}, nil
	}}
	g := run(t, s, snap)
	c := dialTLS(t, port, client("a.example"))
	roundTrip(t, c)
	all := g.s.Connections()
	if len(all) != 1 || all[0].Path != "relay" || all[0].Reason != "no splice today" || all[0].Up != 5 || all[0].Down != 5 ||
		all[0].SNI != "a.example" || all[0].Route != "r" || all[0].Backend != "b" || all[0].TLSVersion != "TLS 1.3" || all[0].Listener != "l" {
		t.Errorf("connections: %+v", all)
	}
}

// count reads a counter.
func count(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// Each source of the endpoint's family is used, and where one has no port left another
// one is; without any of that family the kernel chooses.
func TestSourcesAreOfTheFamilyOfTheEndpointAndHavePorts(t *testing.T) {
	s := &Server{Sources: []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("::ffff:127.0.0.3"), netip.MustParseAddr("::1")}}
	for _, tt := range []struct {
		to        string
		exhausted string
		want      []string
	}{
		{"192.0.2.1:1", "", []string{"127.0.0.2:0", "127.0.0.3:0"}},
		{"[::ffff:192.0.2.1]:1", "", []string{"127.0.0.2:0", "127.0.0.3:0"}},
		{"192.0.2.1:1", "127.0.0.3:0", []string{"127.0.0.2:0"}},
		{"[2001:db8::1]:1", "", []string{"[::1]:0"}},
		{"name.example:1", "", []string{"none"}},
	} {
		seen := map[string]bool{}
		for range 200 {
			_, err := s.dialFrom(t.Context(), func(_ context.Context, from *net.TCPAddr, _, _ string) (net.Conn, error) {
				switch {
				case from == nil:
					seen["none"] = true
				case from.String() == tt.exhausted:
					return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}
				default:
					seen[from.String()] = true
				}
				return nil, nil
			}, tt.to)
			if err != nil {
				t.Fatalf("%s: %v", tt.to, err)
			}
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, tt.want) {
			t.Errorf("to %s, without ports at %q: from %q, want %q", tt.to, tt.exhausted, got, tt.want)
		}
	}
}
