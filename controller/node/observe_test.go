// SPDX-License-Identifier: Apache-2.0

package node

import (
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
)

// lives is a node's view of its peers, with a clock of the test's.
type lives struct {
	t *testing.T
	peers
	now     time.Time
	reached time.Time // when its own Lease was renewed
}

func newLives(t *testing.T) *lives {
	now := time.Unix(1e9, 0)
	return &lives{t: t, peers: peers{self: "self", seen: map[string]sighting{}}, now: now, reached: now}
}

// after lets time pass in which the node reaches the API server.
func (l *lives) after(d time.Duration) {
	l.now = l.now.Add(d)
	l.reached = l.now
}

// leases are "node=version" each, of nodes whose clocks are years off.
func (l *lives) leases(texts ...string) (out []*coordinationv1.Lease) {
	l.t.Helper()
	for _, text := range texts {
		name, version, _ := strings.Cut(text, "=")
		o, err := publication.EncodeNode("sluice-system", publication.Node{Name: name, Renewed: time.Unix(5e8, 0), Lasts: lastsHolding})
		if err != nil {
			l.t.Fatal(err)
		}
		o.ResourceVersion = version
		out = append(out, o)
	}
	return out
}

// sees observes what the watch tells, and asks when that leaves a node silent.
func (l *lives) sees(watched, asked []string, want string) {
	l.t.Helper()
	if l.observe(l.leases(watched...), l.reached, l.now) {
		var list []coordinationv1.Lease
		for _, o := range l.leases(asked...) {
			list = append(list, *o)
		}
		l.bury(list, l.now)
	}
	if got := strings.Join(l.live, " "); got != want {
		l.t.Errorf("%q live, want %q", got, want)
	}
}

func TestANodeLivesAsLongAsItsLeaseChanges(t *testing.T) {
	l := newLives(t)
	for _, version := range []string{"1", "2", "3", "4"} {
		l.sees([]string{"a=" + version, "self=" + version}, nil, "a self")
		l.after(2 * time.Second)
	}
	l.after(2 * time.Second)
	silent := []string{"a=4"}
	l.sees(silent, silent, "self")
	l.sees([]string{"a=5"}, nil, "a self")
	l.sees(nil, nil, "self") // it has ended
}

func TestAWatchThatIsBehindKillsNobody(t *testing.T) {
	l := newLives(t)
	l.sees([]string{"a=1"}, nil, "a self")
	for _, asked := range []string{"a=2", "a=3"} {
		l.after(4 * time.Second)
		l.sees([]string{"a=1"}, []string{asked}, "a self")
	}
	// It dies, and the watch still is behind.
	l.after(4 * time.Second)
	l.sees([]string{"a=1"}, []string{"a=3"}, "self")
	l.sees([]string{"a=1"}, []string{"a=3"}, "self")
	l.sees([]string{"a=3"}, []string{"a=3"}, "self")
}

func TestAnAPIServerOfABackupKillsNobody(t *testing.T) {
	l := newLives(t)
	l.sees([]string{"a=900"}, nil, "a self")
	for _, version := range []string{"700", "701", "702"} {
		l.after(2 * time.Second)
		l.sees([]string{"a=" + version}, nil, "a self")
	}
}

// A node that does not reach the API server has no opinion, and when it is back
// the others have as long to show as ever.
func TestANodeThatWasCutOffGivesTheOthersTime(t *testing.T) {
	l := newLives(t)
	l.sees([]string{"a=1", "b=1"}, nil, "a b self")
	l.now = l.now.Add(time.Minute)
	l.sees([]string{"a=1", "b=1"}, nil, "a b self")
	l.reached = l.now
	l.sees([]string{"a=1", "b=1"}, nil, "a b self")
	l.after(2 * time.Second)
	l.sees([]string{"a=2", "b=1"}, nil, "a b self")
	l.after(2 * time.Second)
	l.sees([]string{"a=2", "b=1"}, []string{"a=2", "b=1"}, "a self")
}
