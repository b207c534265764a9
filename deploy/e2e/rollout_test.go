// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Agents are replaced by a rollout: no new connection is refused, those that are
// there go on with the old agents, and addresses stay where they are.
func TestRolloutRefusesNobody(t *testing.T) {
	g := serveGateway(t)
	holder := g.holder(t)
	before := agentOn(t, holder)
	l := startLoad(t, g, 0, 50, g.nodes[0]+".e2e.test", g.nodes[1]+".e2e.test")
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
	kubectl(t, "-n", sluice, "rollout", "restart", "daemonset/sluice-agent")
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
			t.Logf("the pod before was told to end %v after the rollout began", time.Since(start).Round(time.Millisecond))
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
	l.end(t)
	if now := g.holder(t); now != holder {
		t.Errorf("%s moved from %s to %s", g.address, holder, now)
	}
	within(t, time.Minute, func() error { return g.answers(g.nodes[0]+".e2e.test", g.nodes[0]) })
	if !ending(t, before) {
		t.Errorf("pod %s is still there", before)
	}
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
