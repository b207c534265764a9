// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Agents are replaced by those of the next version, and by the ones of before
// again: no new connection is refused, those that are there go on with the old
// agents, and addresses stay where they are.
func TestRolloutsRefuseNobody(t *testing.T) {
	g := serveGateway(t)
	version := func(node string) string {
		return kubectl(t, "-n", sluice, "get", "lease", "sluice-node-"+node, "-o", "jsonpath={.metadata.annotations}")
	}
	holder := g.holder(t)
	l := startLoad(t, g, 0, 50, g.nodes[0]+".e2e.test", g.nodes[1]+".e2e.test")
	g.rollout(t, holder, "set", "image", "daemonset/sluice-agent", "agent=sluice/sluice:next")
	within(t, time.Minute, func() error {
		if v := version(holder); !strings.Contains(v, "next") {
			return fmt.Errorf("%s reports %s, want version next", holder, v)
		}
		return nil
	})
	g.rollout(t, holder, "rollout", "undo", "daemonset/sluice-agent")
	within(t, time.Minute, func() error {
		if v := version(holder); strings.Contains(v, "next") {
			return fmt.Errorf("%s reports %s, want the version of before", holder, v)
		}
		return nil
	})
	l.end(t)
	if now := g.holder(t); now != holder {
		t.Errorf("%s moved from %s to %s", g.address, holder, now)
	}
}

// rollout makes a change of the DaemonSet, with connections that go on until ten
// seconds after the agent that has them was told to end, and waits until it is
// rolled out.
func (g *gateway) rollout(t *testing.T, holder string, change ...string) {
	t.Helper()
	before := agentOn(t, holder)
	var long []*conn
	for i := range 20 {
		c, err := g.dial(g.nodes[i%2] + ".e2e.test")
		if err != nil {
			t.Fatal(err)
		}
		long = append(long, c)
	}
	exchange := func() {
		t.Helper()
		for i, c := range long {
			if err := c.exchange(64 << 10); err != nil {
				t.Fatalf("connection %d, of before: %v", i, err)
			}
		}
	}
	exchange()
	start := time.Now()
	kubectl(t, append([]string{"-n", sluice}, change...)...)
	done := make(chan error, 1)
	go func() {
		_, err := command("", "kubectl.sh", "-n", sluice, "rollout", "status", "daemonset/sluice-agent", "--timeout=120s")
		done <- err
	}()
	// The old agents drain for 30 seconds after they were told to end.
	var told time.Time
	for told.IsZero() || time.Since(told) < 10*time.Second {
		exchange()
		if told.IsZero() && ending(t, before) {
			told = time.Now()
			t.Logf("the agent of before was told to end %v after the rollout began", time.Since(start).Round(time.Millisecond))
		}
		time.Sleep(100 * time.Millisecond)
	}
	for i, c := range long {
		if err := c.finish(); err != nil {
			t.Errorf("the end of connection %d, of before: %v", i, err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("the rollout took %v", time.Since(start).Round(time.Millisecond))
	within(t, 2*time.Minute, func() error { // the agent of before has ended
		if pods := strings.Fields(kubectl(t, "-n", sluice, "get", "pods", "-l", "app.kubernetes.io/component=agent", "-o", "name")); len(pods) != len(g.nodes) {
			return fmt.Errorf("agents %q", pods)
		}
		return nil
	})
}

// ending tells whether a pod of ours was told to end, or is gone.
func ending(t *testing.T, pod string) bool {
	t.Helper()
	var p corev1.Pod
	err := api.Get(t.Context(), client.ObjectKey{Namespace: sluice, Name: pod}, &p)
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err != nil || p.DeletionTimestamp != nil
}

// An agent's pod is deleted: the one that replaces it takes over from it while it
// still accepts.
func TestADeletedPodIsReplacedWithoutRefusal(t *testing.T) {
	g := serveGateway(t)
	holder := g.holder(t)
	l := startLoad(t, g, 0, 50, g.nodes[0]+".e2e.test", g.nodes[1]+".e2e.test")
	c, err := g.dial(g.nodes[0] + ".e2e.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.exchange(64 << 10); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "-n", sluice, "delete", "pod", agentOn(t, holder), "--wait=false")
	for range 30 {
		time.Sleep(200 * time.Millisecond)
		if err := c.exchange(64 << 10); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.finish(); err != nil {
		t.Error(err)
	}
	kubectl(t, "-n", sluice, "rollout", "status", "daemonset/sluice-agent", "--timeout=120s")
	time.Sleep(5 * time.Second)
	l.end(t)
	if now := g.holder(t); now != holder {
		t.Errorf("%s moved from %s to %s", g.address, holder, now)
	}
}
