// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// outage is how long a part of the cluster is away.
func outage(short, long time.Duration) time.Duration {
	if full() {
		return long
	}
	return short
}

// full tells whether tests run in their full size.
func full() bool { return os.Getenv("SLUICE_LONG") != "" }

// Without a controller everything is served on; what changed meanwhile comes
// with the next one.
func TestControllersAway(t *testing.T) {
	g := serveGateway(t)
	l := startLoad(t, g, 20, 20, g.nodes[0]+".e2e.test", g.nodes[1]+".e2e.test")
	t.Cleanup(func() { kubectl(t, "-n", sluice, "scale", "deployment/sluice-controller", "--replicas=2") })
	kubectl(t, "-n", sluice, "scale", "deployment/sluice-controller", "--replicas=0")
	kubectl(t, "-n", sluice, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/component=controller", "--timeout=120s")
	if err := g.rotate(t.Context(), 77); err != nil {
		t.Fatal(err)
	}
	time.Sleep(outage(30*time.Second, 10*time.Minute))
	if err := g.shows(2); err != nil {
		t.Errorf("without a controller: %v", err)
	}
	start := time.Now()
	kubectl(t, "-n", sluice, "scale", "deployment/sluice-controller", "--replicas=2")
	within(t, 2*time.Minute, func() error { return g.shows(77) })
	t.Logf("the rotation was served %v after the Deployment was scaled up", time.Since(start).Round(time.Millisecond))
	l.end(t)
}

// The same without an API server.
func TestAPIServerAway(t *testing.T) { withoutAPIServer(t, "kill", "start") }

// The same with one that takes connections and does not answer.
func TestAPIServerFrozen(t *testing.T) { withoutAPIServer(t, "freeze", "thaw") }

func withoutAPIServer(t *testing.T, end, begin string) {
	g := serveGateway(t)
	l := startLoad(t, g, 20, 20, g.nodes[0]+".e2e.test", g.nodes[1]+".e2e.test")
	holder := g.holder(t)
	component(t, end, "kube-apiserver")
	time.Sleep(outage(20*time.Second, 2*time.Minute))
	component(t, begin, "kube-apiserver")
	within(t, 2*time.Minute, func() error { return g.rotate(t.Context(), 77) })
	start := time.Now()
	within(t, 2*time.Minute, func() error { return g.shows(77) })
	t.Logf("a rotation was served %v after the API server took it", time.Since(start).Round(time.Millisecond))
	if now := g.holder(t); now != holder {
		t.Errorf("%s moved from %s to %s", g.address, holder, now)
	}
	l.end(t)
}

// An agent that is killed takes its connections along, and neither side takes
// that for the end of a stream.
func TestAgentKilled(t *testing.T) {
	count := &figures.Figures{Connections: 40, Bytes: 40 * 100 << 10, Faults: 1}
	figures.Record(t, count)
	g := serveGateway(t)
	holder := g.holder(t)
	var connections []*conn
	for i := range 40 {
		c, err := g.dial(g.nodes[i%2] + ".e2e.test")
		if err != nil {
			t.Fatal(err)
		}
		defer c.tls.Close()
		if err := c.exchange(100 << 10); err != nil {
			t.Fatal(err)
		}
		connections = append(connections, c)
	}
	pids := strings.Fields(mustCommand(t, "", "in.sh", holder, "pgrep", "-f", "^/sluice agent"))
	if len(pids) != 1 {
		t.Fatalf("agents of %s: %q, want one", holder, pids)
	}
	start := time.Now()
	mustCommand(t, "", "in.sh", holder, "kill", "-KILL", pids[0])
	for _, c := range connections {
		_ = c.tls.SetDeadline(time.Now().Add(time.Minute))
		_, err := c.r.ReadByte()
		switch {
		case err == nil || errors.Is(err, io.EOF):
			t.Errorf("%s: the client sees a finished stream (%v)", c.pod, err)
		case errors.Is(err, os.ErrDeadlineExceeded):
			t.Errorf("%s: the client sees no end", c.pod)
		}
	}
	within(t, 2*time.Minute, func() error { return g.answers(g.nodes[0]+".e2e.test", g.nodes[0]) })
	count.What = fmt.Sprintf("SIGKILL; Kubernetes started it again, and it served after %v", time.Since(start).Round(time.Millisecond))
	t.Log(count.What)

	logs := map[string]string{}
	within(t, time.Minute, func() error {
		for _, n := range g.nodes {
			logs[n] = kubectl(t, "-n", g.namespace, "logs", n)
		}
		for _, c := range connections {
			if strings.Contains(logs[c.pod], fmt.Sprintf("finished %d ", c.key)) {
				t.Fatalf("pod %s saw a finished stream", c.pod)
			}
			if !strings.Contains(logs[c.pod], fmt.Sprintf("broken %d ", c.key)) {
				return fmt.Errorf("pod %s did not see the end of %d yet", c.pod, c.key)
			}
		}
		return nil
	})
	kubectl(t, "-n", sluice, "rollout", "status", "daemonset/sluice-agent", "--timeout=120s")
}

// A node that is cut off under load loses its addresses to another, whose own
// connections do not notice.
func TestNodeCutOff(t *testing.T) {
	g := serveGateway(t)
	holder := g.holder(t)
	other := g.nodes[0]
	if other == holder {
		other = g.nodes[1]
	}
	link := func(state string) { mustCommand(t, "", "in.sh", "control", "ip", "link", "set", holder, state) }
	t.Cleanup(func() {
		link("up")
		kubectl(t, "wait", "--for=condition=Ready", "--timeout=120s", "nodes", "--all")
		t.Logf("afterwards %s has %s", g.holder(t), g.address)
		within(t, time.Minute, func() error { return g.answers(holder+".e2e.test", holder) })
	})
	undisturbed := startLoad(t, g.heldBy(t, other), 20, 20, other+".e2e.test")
	for range 20 { // these go with the node
		c, err := g.dial(other + ".e2e.test")
		if err != nil {
			t.Fatal(err)
		}
		defer c.tls.Close()
		if err := c.exchange(100 << 10); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	link("down")
	within(t, time.Minute, func() error { // SYNs into the dark must not delay what is measured
		c, err := g.dialWithin(200*time.Millisecond, other+".e2e.test")
		if err != nil {
			return err
		}
		return c.finish()
	})
	t.Logf("%s moved from %s to %s, with a new connection %v after the cut", g.address, holder, other, time.Since(start).Round(time.Millisecond))
	l := startLoad(t, g, 10, 20, other+".e2e.test")
	time.Sleep(5 * time.Second)
	l.end(t)
	undisturbed.end(t)
}

// heldBy makes more Gateways, until a node holds the address of one.
func (g *gateway) heldBy(t *testing.T, node string) *gateway {
	t.Helper()
	for i := range 20 {
		name := fmt.Sprintf("more-%d", i)
		text := objects[:strings.Index(objects, "---")] + strings.NewReplacer("@NAME@", name, "@SERVICE@", node).Replace(route)
		text = strings.ReplaceAll(text, "{name: gateway}", "{name: "+name+"}")
		text = strings.ReplaceAll(text, "["+name+".e2e.test]", "["+node+".e2e.test]")
		mustCommand(t, text, "kubectl.sh", "-n", g.namespace, "apply", "-f", "-")
		kubectl(t, "-n", g.namespace, "wait", "--for=condition=Programmed", "--timeout=120s", "gateway/"+name)
		more := &gateway{namespace: g.namespace, nodes: g.nodes, roots: g.roots,
			address: get(t, g.namespace, name, &gatewayv1.Gateway{}).Status.Addresses[0].Value}
		if more.holder(t) == node {
			within(t, time.Minute, func() error { return more.answers(node+".e2e.test", node) })
			return more
		}
	}
	t.Fatalf("of 20 addresses %s holds none", node)
	return nil
}
