// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// The agent finds the memory limit of its container, beside the cgroups of the node.
func TestTheAgentKnowsItsMemoryLimit(t *testing.T) {
	change := func(how ...string) {
		kubectl(t, append([]string{"-n", sluice}, how...)...)
		kubectl(t, "-n", sluice, "rollout", "status", "daemonset/sluice-agent", "--timeout=180s")
	}
	change("set", "resources", "daemonset/sluice-agent", "--containers=agent", "--limits=memory=500Mi")
	t.Cleanup(func() { change("rollout", "undo", "daemonset/sluice-agent") })
	node := strings.Fields(kubectl(t, "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))[0]
	within(t, time.Minute, func() error {
		// It may not do all that the doctor tries.
		out, _ := command("", "kubectl.sh", "-n", sluice, "exec", agentOn(t, node), "--", "/sluice", "doctor")
		for _, want := range []string{"500 MiB, enough for", "/host/sys/fs/cgroup"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %q in %s", want, out)
			}
		}
		return nil
	})
}
