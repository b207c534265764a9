// SPDX-License-Identifier: Apache-2.0

//go:build servers

package servers

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// server is one that people run.
type server struct {
	name string
	// version is a command that prints the server's version.
	version []string
	// start starts it in the machine's namespace, until the end of the test.
	start func(m *machine) netip.AddrPort
	uses  []use
}

// use is what a client does with a server through the gateway.
type use struct {
	client string
	// tcp says that the client speaks to the TCP listener, not to the one that
	// terminates TLS.
	tcp bool
	// alpn is what the client wants the gateway to agree on.
	alpn string
	// down says that many bytes go to the client on its only connection. A server
	// that is faster than the gateway always has bytes in TCP when it writes, so
	// none may be spliced.
	down bool
	// splices says that the server reads with splice(2): what it sends is spliced,
	// what is sent to it is not.
	splices bool
	// blocks says that the server reads a blocking socket, so that one connection at
	// most is spliced, unless several are made at once.
	blocks bool
	// asks says that the server asks FIONREAD, and hangs when it is told too little.
	// Where this kernel's answer is wrong for spliced connections, one is reset
	// when it asks, and later ones are relayed.
	asks bool
	// run fails the test, or returns how many bytes it has compared.
	run func(t *testing.T, g *gateway) int64
}

var servers = slices.Concat(stores, databases, brokers, web, languages, shells)

// TestServers is the matrix: every server and client in every mode.
func TestServers(t *testing.T) {
	for _, s := range servers {
		t.Run(s.name, func(t *testing.T) {
			m := &machine{t: t, dir: dirFor(t, s.name)}
			to := s.start(m)
			version := strings.TrimSpace(client(t, "", s.version[0], s.version[1:]...))
			for _, u := range s.uses {
				t.Run(u.client, func(t *testing.T) {
					its := modes
					if u.tcp {
						its = tcpModes
					}
					for _, mode := range its {
						t.Run(mode.name, func(t *testing.T) { u.in(t, mode, to, s.name+": "+version) })
					}
				})
			}
		})
	}
}

// in runs the use in a mode and checks what the gateway says of it.
func (u use) in(t *testing.T, m mode, to netip.AddrPort, version string) {
	count := &figures.Figures{Server: version, Client: u.client}
	figures.Record(t, count)
	t.Cleanup(func() { site.rows = append(site.rows, row{*count, m.name, !t.Failed()}) })
	g := launch(t, to, u, m)
	count.Bytes = u.run(t, g)

	wanted, listener := []string{"spliced", "relay tcp_busy"}, "/tls"
	switch {
	case u.tcp:
		wanted, listener = []string{"kernel"}, "/tcp"
	case !m.spliced():
		wanted = []string{"relay off"}
	case u.splices:
		wanted = append(wanted, "relay reader_splices")
	case g.mayReset():
		wanted = append([]string{"relay reader_fionread", "relay reader_unproven"}, wanted...)
	}
	if u.blocks && m.spliced() {
		wanted = append(wanted, "relay reader_blocks")
	}
	ways := map[string]int64{}
	for _, a := range g.ended() {
		if !strings.HasSuffix(a.Listener, listener) {
			t.Errorf("a connection of listener %s: %+v", a.Listener, a)
		}
		if !slices.Contains(wanted, a.way()) {
			t.Errorf("a connection went %q, want one of %q: %+v", a.way(), wanted, a)
		}
		ways[a.way()]++
		count.Connections++
	}
	if ways[wanted[0]] == 0 && !u.down {
		t.Errorf("no connection went %q: %v", wanted[0], ways)
	}
	count.Path, count.Reason, _ = strings.Cut(wanted[0], " ")
	var words []string
	for _, way := range slices.Sorted(maps.Keys(ways)) {
		words = append(words, fmt.Sprintf("%s: %d", way, ways[way]))
	}
	count.What = strings.Join(words, ", ")
}

// row is a line of the table that is printed at the end.
type row struct {
	figures.Figures
	mode   string
	passed bool
}

func printTable(rows []row) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVER\tCLIENT\tMODE\tCONNECTIONS BY PATH AND REASON\tBYTES COMPARED\tRESULT")
	for _, r := range rows {
		result := "ok"
		if !r.passed {
			result = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", r.Server, r.Client, r.mode, r.What, r.Bytes, result)
	}
	_ = w.Flush()
}

// mayReset tells whether the gateway gets to know the server by a connection that
// it has to reset.
func (g *gateway) mayReset() bool { return g.use.asks && site.fionread && g.mode.spliced() }
