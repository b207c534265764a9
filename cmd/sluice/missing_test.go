// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/splice"
)

// T16: what the splice needs is missing. The gateway says once what, and serves
// all the same.
func TestWithoutWhatTheSpliceNeedsTheGatewayRelays(t *testing.T) {
	needRoot(t)
	for _, tool := range []string{"setpriv", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("SLUICE_REQUIRE_ROOT") != "" {
				t.Fatalf("needs %s (Debian: util-linux)", tool)
			}
			t.Skipf("needs %s (Debian: util-linux)", tool)
		}
	}
	// CAP_SYS_ADMIN stands for the others, so it goes with each.
	without := func(capability string) []string {
		return []string{"setpriv", "--bounding-set", "-sys_admin,-" + capability}
	}
	inNamespace := func(script string) []string {
		return []string{"unshare", "--mount", "sh", "-c", script + ` && exec "$0" "$@"`}
	}
	cases := []struct {
		name           string
		prefix         []string
		flags          []string
		reason, saying string
	}{
		{"CAP_BPF", without("bpf"), nil, splice.ReasonCapability, "missing CAP_BPF:"},
		{"CAP_PERFMON", without("perfmon"), nil, splice.ReasonCapability, "missing CAP_PERFMON:"},
		{"CAP_NET_ADMIN", without("net_admin"), nil, splice.ReasonCapability, "missing CAP_NET_ADMIN:"},
		{"all of them", without("bpf,-perfmon,-net_admin"), nil, splice.ReasonCapability, "missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN:"},
		{"BTF", inNamespace("mount -t tmpfs none /sys/kernel/btf"), nil, splice.ReasonBTF, "CONFIG_DEBUG_INFO_BTF"},
		{"cgroup2", inNamespace("umount -a -t cgroup2"), nil, splice.ReasonCgroup, "mount -t cgroup2"},
		{"the cgroup", nil, []string{"-cgroup", "/nowhere"}, splice.ReasonCgroup, "give -cgroup a folder of cgroup2"},
		{"a cgroup2 there", nil, []string{"-cgroup", "/tmp"}, splice.ReasonCgroup, "give -cgroup a folder of cgroup2"},
		{"bpffs, which only bpftool needs", inNamespace("umount -a -t bpf"), nil, "", "mount -t bpf bpf"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g := launch(t, serveTCP(t, echo), c.prefix, c.flags...)
			var status agent.Status
			if err := json.Unmarshal([]byte(g.status()), &status); err != nil {
				t.Fatal(err)
			}
			if status.Splice.On != (c.reason == "") || status.Splice.Reason != c.reason {
				t.Errorf("splice is %+v, want reason %q", status.Splice, c.reason)
			}
			if said := status.Splice.Message + status.Splice.Pins; !strings.Contains(said, c.saying) {
				t.Errorf("the status says %q, want %q in it", said, c.saying)
			}
			lines := 0
			for line := range strings.Lines(g.logged()) {
				if strings.Contains(line, "level=WARN") {
					lines++
					if !strings.Contains(line, c.saying) {
						t.Errorf("log: %q, want %q in it", line, c.saying)
					}
				}
			}
			if lines != 1 {
				t.Errorf("%d lines of warning, want 1", lines)
			}
			if err := talk(g.port, serverName); err != nil {
				t.Error(err)
			}
			if err := g.end(syscall.SIGTERM); err != nil {
				t.Errorf("exit: %v", err)
			}
			if _, err := os.Lstat(g.pins()); !os.IsNotExist(err) {
				t.Errorf("%s is left behind", g.pins())
			}
		})
	}
}
