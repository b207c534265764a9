// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The processes that hold private keys show their memory to no other process of their
// user. Here both are root's, who have no capability that would help.
func TestNobodyOfTheSameUserReadsTheMemoryOfWhoHoldsKeys(t *testing.T) {
	needRoot(t)
	plainly := []string{"setpriv", "--bounding-set=-all", "--inh-caps=-all"}
	start := func(name string, args ...string) (pid int) {
		t.Helper()
		cmd := exec.Command(plainly[0], append(append(plainly[1:len(plainly):len(plainly)], name), args...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd.Process.Pid
	}
	// A server that never answers.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: c,
clusters: [{name: c, cluster: {server: "http://%s"}}], contexts: [{name: c, context: {cluster: c}}]}`, l.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	processes := map[string]int{
		"gateway":    launch(t, serveTCP(t, echo), plainly, "-splice", "off").cmd.Process.Pid,
		"controller": start("sluice", "controller", "-kubeconfig", kubeconfig, "-metrics", "off"),
		"agent":      start("sluice", "agent", "-kubeconfig", kubeconfig, "-metrics", "off", "-splice", "off", "-node", "n", "-admin", filepath.Join(t.TempDir(), "admin")),
	}
	reads := func(pid int, file string) error {
		out, err := exec.Command(plainly[0], append(plainly[1:len(plainly):len(plainly)], "sh", "-c", fmt.Sprintf(": </proc/%d/%s", pid, file))...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	other := start("sleep", "600")
	for name, pid := range processes {
		eventually(t, "the "+name+" is hardened", func() bool { return reads(pid, "environ") != nil })
		for _, file := range []string{"mem", "maps", "environ", "auxv"} {
			if err := reads(pid, file); err == nil || !strings.Contains(err.Error(), "Permission denied") {
				t.Errorf("another process opens %s of the %s: %v", file, name, err)
			}
		}
	}
	for _, file := range []string{"maps", "environ", "auxv"} { // mem is the business of Yama, too
		if err := reads(other, file); err != nil {
			t.Errorf("but it does not open %s of a process that anyone may read: %v", file, err)
		}
	}
}
