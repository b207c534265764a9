// SPDX-License-Identifier: Apache-2.0

package terminator

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// session is a client's memory of one session, whatever server it came from.
type session struct{ state *tls.ClientSessionState }

func (s *session) Get(string) (*tls.ClientSessionState, bool) { return s.state, s.state != nil }

func (s *session) Put(_ string, state *tls.ClientSessionState) {
	if state != nil {
		s.state = state
	}
}

// resumes tells whether a handshake with this name took up the session; a
// session that was issued on it is remembered.
func resumes(t *testing.T, port uint16, sni string, version uint16, s *session) bool {
	t.Helper()
	conn := dialTLS(t, port, &tls.Config{InsecureSkipVerify: true, ServerName: sni, MaxVersion: version, ClientSessionCache: s})
	defer conn.Close()
	roundTrip(t, conn) // TLS 1.3 sends tickets after the handshake
	return conn.ConnectionState().DidResume
}

// twoListeners are listeners of equal certificates for a.example and
// *.b.example on two ports.
func twoListeners(t *testing.T, a, b uint16) *config.Snapshot {
	cert := certificateFor(t, "c", "a.example", "x.b.example", "y.b.example")
	snap := simple(a, cert, backend(t, echo))
	snap.Listeners[0].Name, snap.Listeners[0].Hostname = "a", "a.example"
	same := snap.Listeners[0]
	same.Name, same.Hostname = "b", "*.b.example"
	other := same
	other.Name, other.Port = "c", b
	snap.Listeners = append(snap.Listeners, same, other)
	return snap
}

func TestTicketsResumeOnTheListenerAndNameThatIssuedThem(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			one, two := freePort(t), freePort(t)
			g := run(t, &Server{}, twoListeners(t, one, two))
			for _, tt := range []struct {
				name, sni string
				port      uint16
				want      bool
			}{
				{"same listener, same name", "x.b.example", one, true},
				{"same name in upper case", "X.B.example", one, true},
				{"same listener, another name", "y.b.example", one, false},
				{"another listener of the port", "a.example", one, false},
				{"another listener, same name and certificate", "x.b.example", two, false},
			} {
				t.Run(tt.name, func(t *testing.T) {
					var s session
					if resumes(t, one, "x.b.example", version, &s) {
						t.Fatal("resumed without a session")
					}
					if got := resumes(t, tt.port, tt.sni, version, &s); got != tt.want {
						t.Errorf("resumed: %v, want %v", got, tt.want)
					}
				})
			}
			_ = g
		})
	}
}

func TestTicketsOutliveSnapshotsUntilTrustChanges(t *testing.T) {
	one, two := freePort(t), freePort(t)
	base := twoListeners(t, one, two)
	g := run(t, &Server{}, base)
	fresh := certificateFor(t, "c", "a.example", "x.b.example")
	for _, tt := range []struct {
		name   string
		change func(s *config.Snapshot)
		want   bool
	}{
		{"nothing changed", func(*config.Snapshot) {}, true},
		{"the route changed", func(s *config.Snapshot) { s.Listeners[0].L4 = nil; s.Backends[0].Splice = config.SpliceOff }, true},
		{"the certificate was renewed", func(s *config.Snapshot) { s.Certificates = []config.Certificate{fresh} }, false},
		{"the minimum version rose", func(s *config.Snapshot) {
			tls := *s.Listeners[1].TLS
			tls.MinVersion = 0x0304
			s.Listeners[1].TLS = &tls
		}, false},
		{"the listener was replaced", func(s *config.Snapshot) { s.Listeners[1].Name = "bb" }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g.apply(base)
			var s session
			resumes(t, one, "x.b.example", tls.VersionTLS13, &s)
			changed := *base
			changed.Listeners = append([]config.Listener{}, base.Listeners...)
			changed.Backends = append([]config.Backend{}, base.Backends...)
			tt.change(&changed)
			g.apply(&changed)
			if got := resumes(t, one, "x.b.example", tls.VersionTLS13, &s); got != tt.want {
				t.Errorf("resumed: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestTicketKeysRotateAndTheLastOneStillOpens(t *testing.T) {
	port := freePort(t)
	g := run(t, &Server{}, twoListeners(t, port, freePort(t)))
	rotate := func(after time.Duration) {
		g.s.mu.Lock()
		defer g.s.mu.Unlock()
		for _, k := range g.s.trusts {
			k.rotate(k.made.Add(after))
		}
	}
	for i, tt := range []struct {
		after []time.Duration
		want  bool
	}{
		{[]time.Duration{ticketRotation - time.Second}, true},
		{[]time.Duration{ticketRotation}, true},
		{[]time.Duration{ticketRotation, ticketRotation}, false},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			var s session
			resumes(t, port, "x.b.example", tls.VersionTLS13, &s)
			for _, d := range tt.after {
				rotate(d)
			}
			if got := resumes(t, port, "x.b.example", tls.VersionTLS13, &s); got != tt.want {
				t.Errorf("resumed: %v, want %v", got, tt.want)
			}
		})
	}
}
