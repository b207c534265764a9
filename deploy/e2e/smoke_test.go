// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A pod on the node that the client reached is spliced, one elsewhere, where
// there is another node, is relayed, and the agent says so.
func TestPodsOnTheNodeAreSpliced(t *testing.T) {
	g := serveGatewayOn(t, 1)
	holder := g.holder(t)
	agent := agentOn(t, holder)
	for _, n := range g.nodes {
		sni := n + ".e2e.test"
		c, err := g.dial(sni)
		if err != nil {
			t.Fatal(err)
		}
		if c.pod != n {
			t.Errorf("%s leads to pod %s", sni, c.pod)
		}
		if err := c.exchange(8 << 20); err != nil {
			t.Fatal(err)
		}
		want := "relay"
		if n == holder {
			want = "spliced"
		}
		within(t, time.Minute, func() error {
			out := kubectl(t, "-n", sluice, "exec", agent, "--", "/sluice", "conns", "-o", "json")
			var connections []struct{ SNI, Path, Reason string }
			if err := json.Unmarshal([]byte(out), &connections); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			for _, i := range connections {
				if i.SNI != sni {
					continue
				}
				if i.Path != want || (i.Reason == "") != (want == "spliced") {
					return fmt.Errorf("%s from %s: path %q, reason %q; want %s", sni, holder, i.Path, i.Reason, want)
				}
				t.Logf("%s through %s: %s %s", sni, holder, i.Path, i.Reason)
				return nil
			}
			return fmt.Errorf("no connection %s in %s", sni, out)
		})
		if err := c.exchange(8 << 20); err != nil {
			t.Fatal(err)
		}
		if err := c.finish(); err != nil {
			t.Error(err)
		}
	}
}

func TestBpftoolInTheAgentsPodShowsTheMaps(t *testing.T) {
	node := strings.Fields(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))[0]
	agent := agentOn(t, node)
	container := fmt.Sprintf("bpftool-%d", time.Now().Unix()) // they stay until the pod goes
	kubectl(t, "-n", sluice, "debug", agent, "--image=sluice.test/bpftool:1", "--image-pull-policy=Never", "--profile=sysadmin",
		"--container="+container, "--target=agent", "--attach=false", "--", "/bpftool", "map")
	within(t, time.Minute, func() error {
		out, err := command("", "kubectl.sh", "-n", sluice, "logs", agent, "-c", container)
		for _, name := range []string{"sl_flows", "sl_endpoints", "sl_socks"} {
			if err == nil && !strings.Contains(out, name) {
				err = fmt.Errorf("no map %s in %s", name, out)
			}
		}
		return err
	})
}
