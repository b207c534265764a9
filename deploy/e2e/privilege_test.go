// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

func TestAgentsMayLittle(t *testing.T) {
	for _, c := range []struct{ question, answer string }{
		{"list secrets -n " + sluice, "yes"},
		{"list secrets -n default", "no"},
		{"list secrets --all-namespaces", "no"},
		{"get secrets/certificate -n default", "no"},
		{"update secrets -n " + sluice, "no"},
		{"delete secrets -n " + sluice, "no"},
		{"list gateways.gateway.networking.k8s.io --all-namespaces", "no"},
		{"update gateways.gateway.networking.k8s.io --subresource=status -n default", "no"},
		{"create events -n default", "no"},
		{"create pods -n " + sluice, "no"},
		{"patch nodes", "no"},
		{"watch endpointslices.discovery.k8s.io --all-namespaces", "yes"},
		{"create clusterrolebindings.rbac.authorization.k8s.io", "no"},
		{"create serviceaccounts/sluice-controller --subresource=token -n " + sluice, "no"},
	} {
		out, _ := command("", "kubectl.sh", append([]string{"auth", "can-i",
			"--as=system:serviceaccount:" + sluice + ":sluice-agent"}, strings.Fields(c.question)...)...)
		if got := strings.TrimSpace(out); got != c.answer {
			t.Errorf("an agent may %s: %q, want %q", c.question, got, c.answer)
		}
	}
}

// Keys are in Secrets and nowhere else: not in logs, Events, statuses, or any
// other object.
func TestKeysAreInSecretsOnly(t *testing.T) {
	g := serveGateway(t)
	for serial := range int64(3) {
		if err := g.rotate(t.Context(), 10+serial); err != nil {
			t.Fatal(err)
		}
		within(t, time.Minute, func() error { return g.shows(10 + serial) })
	}
	// Key and certificate that do not match: the complaint must not quote them.
	bad := strings.NewReplacer("@KEY@", base64.StdEncoding.EncodeToString(g.keys[0]), "@CRT@",
		kubectl(t, "-n", g.namespace, "get", "secret", "certificate", "-o", `jsonpath={.data.tls\.crt}`)).Replace(
		`{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/tls","metadata":{"name":"certificate"},"data":{"tls.key":"@KEY@","tls.crt":"@CRT@"}}`)
	mustCommand(t, bad, "kubectl.sh", "-n", g.namespace, "apply", "--server-side", "--force-conflicts", "-f", "-")
	kubectl(t, "-n", g.namespace, "wait", "--timeout=60s", "gateway/gateway",
		`--for=jsonpath={.status.listeners[0].conditions[?(@.type=="ResolvedRefs")].status}=False`)
	t.Log(kubectl(t, "-n", g.namespace, "get", "gateway/gateway", "-o",
		`jsonpath={.status.listeners[0].conditions[?(@.type=="ResolvedRefs")].message}`))

	seen := map[string]string{} // by where
	for _, kind := range strings.Fields(kubectl(t, "api-resources", "--verbs=list", "-o", "name")) {
		seen[kind] = kubectl(t, "get", kind, "--all-namespaces", "-o", "yaml")
	}
	for _, pod := range strings.Fields(kubectl(t, "-n", sluice, "get", "pods", "-o", "name")) {
		seen[pod] = kubectl(t, "-n", sluice, "logs", pod, "--all-containers")
		if strings.Contains(pod, "agent") {
			for _, words := range []string{"status", "conns"} {
				// Status fails besides where something does.
				out, err := command("", "kubectl.sh", "-n", sluice, "exec", pod, "--", "/sluice", words, "-o", "json")
				if out == "" {
					t.Fatal(err)
				}
				seen[pod+" "+words] = out
			}
		}
	}
	for i, key := range g.keys {
		block, _ := pem.Decode(key)
		text := base64.StdEncoding.EncodeToString(block.Bytes)
		encoded := base64.StdEncoding.EncodeToString(key)
		for where, what := range seen {
			found := strings.Contains(what, encoded[60:120]) || strings.Contains(what, text[80:120])
			if found && where != "secrets" {
				t.Errorf("key %d is in %s", i, where)
			}
			if !found && where == "secrets" && i == 0 { // the one that is there now
				t.Error("the Secret's key was not found in secrets either: the search is wrong")
			}
		}
	}
}
