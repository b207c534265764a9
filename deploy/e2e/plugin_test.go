// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-gateway/sluice/bench/figures"
)

// The plugin of kubectl asks every node, with the rights of who runs it.
func TestThePluginAsksAllNodes(t *testing.T) {
	figures.Record(t, &figures.Figures{Connections: 1, Faults: 1, What: "an agent that does not answer"})
	g := serveGatewayOn(t, 1)
	path := filepath.Join(t.TempDir(), "kubectl-sluice")
	if out, err := exec.Command("go", "build", "-o", path, "../../cmd/sluice").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	plugin := func(args ...string) (string, error) {
		out, err := exec.Command(path, args...).CombinedOutput()
		return string(out), err
	}
	sni := g.nodes[0] + ".e2e.test"
	c, err := g.dial(sni)
	if err != nil {
		t.Fatal(err)
	}
	var nodes []struct {
		Node, Error string
		Answer      json.RawMessage
	}
	// The Service endpoints has none, which is a problem: exit status 1.
	out, err := plugin("status", "-o", "json")
	if jsonErr := json.Unmarshal([]byte(out), &nodes); jsonErr != nil || err == nil {
		t.Fatalf("status -o json: %v, %v in %s", err, jsonErr, out)
	}
	if len(nodes) != len(g.nodes) {
		t.Errorf("%d nodes answer, want %q: %s", len(nodes), g.nodes, out)
	}
	out, err = plugin("status")
	for _, n := range g.nodes {
		if problem := n + ": Service " + g.namespace + "/endpoints has no EndpointSlice"; err == nil || !strings.Contains(out, problem) {
			t.Errorf("status: %v, no problem %q in %s", err, problem, out)
		}
	}
	for _, n := range nodes {
		if n.Error != "" {
			t.Errorf("node %s: %s", n.Node, n.Error)
		}
	}
	t.Logf("status:\n%s", out)
	if out, err = plugin("conns"); err != nil || !strings.Contains(out, sni) {
		t.Errorf("conns: %v, no %s in %s", err, sni, out)
	}
	if out, err = plugin("certs", sni); err != nil || !strings.Contains(out, sni) {
		t.Errorf("certs: %v, no %s in %s", err, sni, out)
	}
	t.Logf("certs:\n%s", out)
	const port = "443"
	if out, err = plugin("explain", "conn", port, "-sni", sni); err != nil || !strings.Contains(out, "TLSRoute/") {
		t.Errorf("explain conn: %v, no route in %s", err, out)
	}
	t.Logf("explain conn:\n%s", out)
	if out, err = plugin("explain", "conn", port, "-sni", "nobody.invalid"); err == nil || !strings.Contains(out, "no_listener") && !strings.Contains(out, "no_route") {
		t.Errorf("explain conn of a name that nobody serves: %v, %s", err, out)
	}
	route := g.namespace + "/" + g.nodes[0]
	if out, err = plugin("explain", "route", route); err != nil || !strings.Contains(out, "attached for "+sni) {
		t.Errorf("explain route %s: %v, %s", route, err, out)
	}
	t.Logf("explain route:\n%s", out)
	page := pluginPage(t, path)
	for _, want := range append([]string{sni, "Service " + g.namespace + "/endpoints has no EndpointSlice", "Gateway " + g.namespace + "/"}, g.nodes...) {
		if !strings.Contains(page, want) {
			t.Errorf("web: no %s in %s", want, page)
		}
	}
	if err := c.exchange(1 << 10); err != nil {
		t.Fatal(err)
	}
	if err := c.finish(); err != nil {
		t.Error(err)
	}

	// An agent that does not answer hides none of the others.
	silent := g.nodes[0]
	pid := strings.TrimSpace(mustCommand(t, "", "in.sh", silent, "pgrep", "-f", "^/sluice agent"))
	mustCommand(t, "", "in.sh", silent, "kill", "-STOP", pid)
	out, err = plugin("conns")
	mustCommand(t, "", "in.sh", silent, "kill", "-CONT", pid)
	if err == nil || !strings.Contains(out, "NODES THAT DO NOT ANSWER") || !strings.Contains(out, silent+": ") {
		t.Errorf("conns with a silent agent on %s: %v, %s", silent, err, out)
	}
	t.Logf("conns with a silent agent:\n%s", out)
}

// pluginPage is what kubectl sluice web shows a browser.
func pluginPage(t *testing.T, path string) string {
	t.Helper()
	cmd := exec.Command(path, "web", "-listen", "127.0.0.1:0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("web: %v", err)
		}
	}()
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("web tells no address: %v", err)
	}
	resp, err := http.Get(strings.TrimSpace(url))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("web: %s, %v", resp.Status, err)
	}
	return string(page)
}
