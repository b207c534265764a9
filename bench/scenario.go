// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"strings"

	"github.com/sluice-gateway/sluice/bench/report"
)

// Op is what a connection does with the backend.
type Op byte

// The operations. A backend reads with read(2) and answers in place. Connect
// and Hold are what a client does; the backend sees an Echo.
const (
	Upload   Op = 'U' // the backend takes Size bytes and acknowledges the last
	Download Op = 'D' // the backend sends Size bytes
	Echo     Op = 'E' // the backend returns Count messages of Size bytes each
	Connect  Op = 'C' // Count connections one after the other, one byte each way on each
	Hold     Op = 'H' // connections that stay, Size bytes each way on each
	Run      Op = 'R' // a program does Count of what it does, over all connections together
)

// Work is a fixed amount of work of every connection of a scenario.
type Work struct {
	Op    Op
	Size  int64 // bytes
	Count int64 // messages of Echo, connections of Connect
}

// Scenario is one kind of load, the same for every peer and round.
type Scenario struct {
	Name        string
	Kind        string // what scenarios have in common that belong in one picture
	Connections int
	// Warm is done on the same connections before the window.
	Warm, Measured Work
	// Unit is that of the figure: CPU time of one of which the scenario has
	// Units, or memory of a connection.
	Unit string
	// Scale turns seconds of CPU per unit into the printed figure.
	Scale float64
	// Rounds is the most that make sense, 0 for as many as there are.
	Rounds int

	Program Program // does the work, with a server of its own; empty for most

	Mode   Mode        // of the gateway
	RSA    bool        // an RSA-2048 certificate instead of an ECDSA P-256 one
	Group  tls.CurveID // key exchange, 0 for X25519
	Resume bool        // handshakes resume the session before
	Names  int         // server names with certificates of their own, 0 for one
	Remote bool        // the backend is behind a slower link and NAT
	Idle   int         // connections that are held open beside those that work
	// Open sends at fixed times, at half of what the slowest peer can do.
	Open bool
}

// Units is how many units of work one window does over all connections: GB
// (1e9 bytes) in bulk, else messages, connections or transactions.
func (s Scenario) Units() float64 {
	switch s.Measured.Op {
	case Upload, Download:
		return float64(s.Measured.Size) * float64(s.Connections) / 1e9
	case Hold:
		return float64(s.Connections)
	case Run:
		return float64(s.Measured.Count)
	}
	return float64(s.Measured.Count) * float64(s.Connections)
}

// group is the key exchange.
func (s Scenario) group() tls.CurveID {
	if s.Group == 0 {
		return tls.X25519
	}
	return s.Group
}

// scenarios are what a run measures, with the given share of the full work.
func scenarios(share float64) []Scenario {
	all := []Scenario{
		bulk("upload", Upload, 1, share), bulk("upload x 8", Upload, 8, share),
		bulk("download", Download, 1, share), bulk("download x 8", Download, 8, share),
	}
	sizes := []struct {
		name        string
		size, count int64
	}{{"100 B", 100, 48_000}, {"4 KB", 4096, 40_000}, {"64 KB", 65_536, 10_000}}
	connections := []struct {
		name   string
		number int
	}{{" x 1", 1}, {" x 16", 16}, {" x 64", 64}}
	for _, m := range sizes {
		for _, n := range connections {
			count := m.count
			if n.number == 1 {
				count /= 2 // one at a time takes longer
			}
			all = append(all, messages(m.name+n.name, n.number, m.size, count, share))
		}
	}
	for _, m := range sizes {
		for _, n := range connections {
			s := messages("open "+m.name+n.name, n.number, m.size, m.count/2, share)
			s.Kind, s.Open, s.Rounds = "round trips at fixed times", true, 6 // each takes its time
			all = append(all, s)
		}
	}
	hybrid := tls.X25519MLKEM768
	all = append(all,
		handshake("handshake ECDSA", share, Scenario{}),
		handshake("handshake ECDSA ML-KEM", share, Scenario{Group: hybrid}),
		handshake("handshake RSA", share, Scenario{RSA: true}),
		handshake("handshake RSA ML-KEM", share, Scenario{RSA: true, Group: hybrid}),
		handshake("handshake resumed", share, Scenario{Resume: true}),
		handshake("handshake 5000 names", share, Scenario{Names: int(max(5000*min(share*4, 1), 65))}),
		idle("idle 1000", 1000, share), idle("idle", 9000, share))
	for _, mode := range []Mode{Plain, Passthrough} {
		for _, s := range []Scenario{bulk(" upload", Upload, 1, share), bulk(" download", Download, 1, share), messages(" 100 B x 16", 16, 100, 48_000, share)} {
			s.Name, s.Kind, s.Mode = string(mode)+s.Name, "plain TCP and passthrough", mode
			all = append(all, s)
		}
	}
	for _, s := range []Scenario{bulk("upload", Upload, 1, share/4), bulk("download", Download, 1, share/4), messages("100 B x 16", 16, 100, 48_000, share)} {
		s.Name, s.Kind, s.Remote = "remote "+s.Name, "remote backend", true
		all = append(all, s)
	}
	busy := messages("100 busy", 100, 100, 50_000, share)
	busy.Kind = "many connections"
	all = append(all, busy)
	busy.Name, busy.Idle = "100 busy beside 9000 idle", int(scaled(9000, share))
	return append(all, busy,
		program(Pgbench, 8, 10_000, "µs/tx", share),
		program(RedisBenchmark, 16, 60_000, "µs/cmd", share),
		program(Mosquitto, 8, 20_000, "µs/msg", share))
}

func bulk(name string, op Op, connections int, share float64) Scenario {
	size := func(full int64) int64 { return scaled(full/int64(connections), share) }
	return Scenario{
		Name: name, Kind: "bulk", Connections: connections, Unit: "s/GB", Scale: 1,
		Warm:     Work{Op: op, Size: size(64 << 20)},
		Measured: Work{Op: op, Size: size(768 << 20)},
	}
}

func messages(name string, connections int, size, count int64, share float64) Scenario {
	perConnection := scaled(count/int64(connections), share)
	return Scenario{
		Name: name, Kind: "round trips", Connections: connections, Unit: "µs/rt", Scale: 1e6,
		Warm:     Work{Op: Echo, Size: size, Count: max(perConnection/10, 1)},
		Measured: Work{Op: Echo, Size: size, Count: perConnection},
	}
}

// handshake is new connections, four at a time.
func handshake(name string, share float64, s Scenario) Scenario {
	const workers = 4
	s.Name, s.Kind, s.Connections, s.Unit, s.Scale = name, "new connections", workers, "µs/conn", 1e6
	s.Warm = Work{Op: Connect, Count: max(scaled(50, share), 2)}
	s.Measured = Work{Op: Connect, Count: max(scaled(400, share), 2)}
	return s
}

// idle is connections that stay, and their memory.
func idle(name string, connections int64, share float64) Scenario {
	few := Work{Op: Hold, Size: 5}
	return Scenario{
		Name: name, Kind: "idle connections", Connections: int(scaled(connections, share)),
		Unit: "kB RSS", Rounds: 3, Warm: few, Measured: few,
	}
}

// program is a load program at work. Half of the clients of Mosquitto publish,
// the others subscribe.
func program(p Program, connections int, count int64, unit string, share float64) Scenario {
	even := func(n int64) int64 { return max(n/int64(connections), 1) * int64(connections) }
	return Scenario{
		Name: fmt.Sprintf("%s x %d", p, connections), Kind: "programs", Program: p, Connections: connections,
		Unit: unit, Scale: 1e6, Rounds: 6,
		Warm: Work{Op: Run, Count: even(scaled(count/10, share))}, Measured: Work{Op: Run, Count: even(scaled(count, share))},
	}
}

// described are scenarios as a report has them.
func described(all []Scenario) (short []report.Scenario) {
	for _, s := range all {
		short = append(short, report.Scenario{Name: s.Name, Kind: s.Kind, Unit: s.Unit, Connections: s.Connections})
	}
	return short
}

func scaled(full int64, share float64) int64 { return max(int64(float64(full)*share), 1) }

// pick returns the elements that a comma-separated list names, all for an empty
// list. An entry is a name, or the beginning of some when there is none.
func pick[T any](all []T, list string, name func(T) string) []T {
	if strings.TrimSpace(list) == "" {
		return all
	}
	var picked []T
	for _, e := range all {
		for want := range strings.SplitSeq(list, ",") {
			want = strings.TrimSpace(want)
			if name(e) == want || !named(all, want, name) && strings.HasPrefix(name(e), want) {
				picked = append(picked, e)
				break
			}
		}
	}
	return picked
}

func named[T any](all []T, want string, name func(T) string) bool {
	for _, e := range all {
		if name(e) == want {
			return true
		}
	}
	return false
}
