// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// An agent without one of its capabilities says which, where people look: in its
// log and status, and in the Gateway's status where the Gateway is not served.
func TestCapabilitiesDroppedInTurn(t *testing.T) {
	g := serveGateway(t)
	const add = "{.spec.template.spec.containers[0].securityContext.capabilities.add}"
	var all []string
	if err := json.Unmarshal([]byte(kubectl(t, "-n", sluice, "get", "daemonset/sluice-agent", "-o", "jsonpath="+add)), &all); err != nil {
		t.Fatal(err)
	}
	grant := func(capabilities []string) {
		list, err := json.Marshal(capabilities)
		if err != nil {
			t.Fatal(err)
		}
		kubectl(t, "-n", sluice, "patch", "daemonset/sluice-agent", "--type=json", "-p",
			fmt.Sprintf(`[{"op":"replace","path":"/spec/template/spec/containers/0/securityContext/capabilities/add","value":%s}]`, list))
		kubectl(t, "-n", sluice, "delete", "pods", "-l", "app.kubernetes.io/component=agent", "--force", "--grace-period=0")
		kubectl(t, "-n", sluice, "rollout", "status", "daemonset/sluice-agent", "--timeout=120s")
		// What the pods took over, listening sockets above all, needs no capability
		// any more. The container that is started anew has nothing to take over.
		for _, n := range g.nodes {
			pids := strings.Fields(mustCommand(t, "", "in.sh", n, "pgrep", "-f", "^/sluice agent"))
			mustCommand(t, "", "in.sh", append([]string{n, "kill", "-KILL"}, pids...)...)
		}
		kubectl(t, "-n", sluice, "rollout", "status", "daemonset/sluice-agent", "--timeout=120s")
	}
	t.Cleanup(func() {
		grant(all)
		within(t, time.Minute, func() error { return g.answers(g.nodes[0]+".e2e.test", g.nodes[0]) })
	})

	effects := []struct {
		capability, logged string
		spliced            bool
		programmed         string // what the Gateway says that is not served; "" when it is
	}{
		{"BPF", "missing CAP_BPF", false, ""},
		{"PERFMON", "missing CAP_PERFMON", false, ""},
		{"NET_ADMIN", "missing CAP_NET_ADMIN", false, "the agent needs CAP_NET_ADMIN"},
		{"NET_BIND_SERVICE", "ports below 1024 need CAP_NET_BIND_SERVICE", true, "CAP_NET_BIND_SERVICE"},
	}
	if len(effects) != len(all) {
		t.Errorf("the agent has capabilities %q, and this test knows %d", all, len(effects))
	}
	for _, e := range effects {
		t.Run(e.capability, func(t *testing.T) {
			grant(slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == e.capability }))
			for _, n := range g.nodes {
				agent := agentOn(t, n)
				within(t, time.Minute, func() error {
					log, err := command("", "kubectl.sh", "-n", sluice, "logs", agent)
					if err == nil && !strings.Contains(log, e.logged) {
						err = fmt.Errorf("%q is not in the log of %s: %s", e.logged, agent, log)
					}
					return err
				})
				within(t, time.Minute, func() error {
					var status struct{ Splice struct{ On bool } }
					out, err := command("", "kubectl.sh", "-n", sluice, "exec", agent, "--", "/sluice", "status", "-o", "json") // exits with 1 when something is wrong
					if json.Unmarshal([]byte(out), &status) != nil {
						return fmt.Errorf("status: %v: %s", err, out)
					}
					if status.Splice.On != e.spliced {
						return fmt.Errorf("the splice of %s: on is %v", n, status.Splice.On)
					}
					return nil
				})
			}
			if e.programmed == "" {
				within(t, time.Minute, func() error { return g.answers(g.nodes[0]+".e2e.test", g.nodes[0]) })
				return
			}
			within(t, time.Minute, func() error {
				said := kubectl(t, "-n", g.namespace, "get", "gateway/gateway", "-o",
					`jsonpath={..conditions[?(@.type=="Programmed")].message}`)
				if !strings.Contains(said, e.programmed) {
					return fmt.Errorf("%q is not in the conditions Programmed: %s", e.programmed, said)
				}
				return nil
			})
		})
	}
}
