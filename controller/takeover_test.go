// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// change changes the shop's Gateway, and waits until that is served.
func (w *world) change(port gwv1.PortNumber) {
	w.Helper()
	w.edit(port)
	w.untilProgrammed("gw")
}

func (w *world) edit(port gwv1.PortNumber) {
	w.Helper()
	g := get(w, "gw", &gwv1.Gateway{})
	g.Spec.Listeners[1].Port = port
	w.must(root.Update(w.Context(), g))
}

func TestAnotherReplicaTakesOverFromOneThatEnds(t *testing.T) {
	w := newWorld(t)
	ws := &writes{}
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.node("n1", "192.0.2.1")
	a := w.start("a", ws)
	w.untilProgrammed("gw")
	w.start("b", ws)
	w.change(1001)
	a.stop()
	w.change(1002)
	if got := ws.writers(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("writers were %q, want a and then b: %v", got, ws.all())
	}
}

// TestAControllerThatStartsKnowsTheNodesBeforeItWrites has it hear late of their
// Leases: without them Gateways would lose their addresses for a moment.
func TestAControllerThatStartsKnowsTheNodesBeforeItWrites(t *testing.T) {
	w := newWorld(t)
	ws := &writes{}
	w.apply(webRoute)
	w.lease("n1", "192.0.2.1", time.Hour)
	w.lease("n2", "192.0.2.2", time.Hour)
	config, err := server.ServiceAccount(w.Context(), system, "sluice-controller")
	w.must(err)
	c := w.controller("a", config, ws)
	late := make(chan struct{})
	c.LeasesLate(late)
	w.runs(c)
	come := sync.OnceFunc(func() { close(late) })
	w.Cleanup(come)
	w.until("the controller to wait", func() string {
		if len(ws.all()) == 0 && !strings.Contains(w.log.String(), "waiting for the API server to tell of objects") {
			return "it does not"
		}
		return ""
	})
	if got := ws.all(); len(got) > 0 {
		t.Errorf("it wrote before it knew the nodes: %v", got)
	}
	come()
	w.until("the addresses of the nodes", func() string {
		var got []string
		for _, a := range get(w, "web", &gwv1.Gateway{}).Status.Addresses {
			got = append(got, a.Value)
		}
		return cmp.Diff([]string{"192.0.2.1", "192.0.2.2"}, got)
	})
}

func TestAnotherReplicaTakesOverFromOneThatIsCutOff(t *testing.T) {
	w := newWorld(t)
	ws := &writes{}
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.node("n1", "192.0.2.1")
	_, link := w.startBehindLink("a", ws)
	w.untilProgrammed("gw")
	w.start("b", ws)
	link.cut()
	w.change(1001)
	link.mend()
	w.change(1002)
	w.change(1003)
	if got := ws.writers(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("writers were %q, want a and then b: %v", got, ws.all())
	}
}

// longerThanALead is longer than a Lease that nobody renews.
const longerThanALead = 16 * time.Second

// TestTheControllerOutlivesTheAPIServer stops it, so that connections are
// refused, and freezes it, so that they hang, for longer than a lead lasts.
func TestTheControllerOutlivesTheAPIServer(t *testing.T) {
	for what, away := range map[string]func(w *world){
		"stopped": func(w *world) {
			w.restarted = true
			w.must(server.Stop())
			time.Sleep(longerThanALead)
			w.must(server.Restart(w.Context()))
		},
		"frozen": func(w *world) {
			w.must(server.Pause())
			time.Sleep(longerThanALead)
			w.must(server.Resume())
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			ws := &writes{}
			w.keyPair("shop", "shop.example")
			w.apply(store)
			w.start("a", ws)
			w.node("n1", "192.0.2.1")
			w.untilProgrammed("gw")
			before, part := get(w, "gw", &gwv1.Gateway{}), w.part("gw")
			written := len(ws.all())
			away(w)
			time.Sleep(3 * time.Second) // for the leader to be one again, and the node to report
			if now := get(w, "gw", &gwv1.Gateway{}); now.ResourceVersion != before.ResourceVersion {
				t.Errorf("the Gateway's status was written, though nothing changed (-before, +now):\n%s", cmp.Diff(before.Status, now.Status))
			}
			if now := w.part("gw"); now.ResourceVersion != part.ResourceVersion {
				t.Error("the part was published again, though nothing changed")
			}
			if all := ws.all(); len(all) > written {
				t.Errorf("written though nothing changed: %v", all[written:])
			}
			w.change(1001)
		})
	}
}

// TestNodesThatGoSilentAreNotCounted ends an agent without a word.
func TestNodesThatGoSilentAreNotCounted(t *testing.T) {
	w := newWorld(t)
	w.keyPair("shop", "shop.example")
	w.apply(store)
	w.start("a", nil)
	w.node("n1", "192.0.2.1")
	w.lease("n2", "192.0.2.2", 3*time.Second)
	w.until("the addresses of both", func() string {
		if g := get(w, "gw", &gwv1.Gateway{}); len(g.Status.Addresses) != 2 {
			return fmt.Sprint(g.Status.Addresses)
		}
		return ""
	})
	w.until("n2 to be waited for, and then not", func() string {
		g := get(w, "gw", &gwv1.Gateway{})
		if len(g.Status.Addresses) != 1 {
			return fmt.Sprint(g.Status.Addresses)
		}
		return condition(g.Status.Conditions, g.Generation, "Programmed", metav1.ConditionTrue, "Programmed")
	})
}
