// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package quickstart

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

// commands returns the indented block of README.md that follows a sentence.
func commands(t *testing.T, after string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), after+"\n\n")
	if !ok {
		t.Fatalf("README.md does not say %q", after)
	}
	var block []string
	for line := range strings.Lines(rest) {
		code, ok := strings.CutPrefix(line, "    ")
		if !ok {
			break
		}
		block = append(block, code)
	}
	if len(block) == 0 {
		t.Fatalf("README.md has no commands after %q", after)
	}
	return strings.Join(block, "")
}

// sh runs commands at the top of the checkout and returns what they print.
func sh(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return string(out)
}

// left is what Sluice could leave: objects of the cluster, and on both nodes its
// pins, rules, addresses and programs.
func left(t *testing.T) string {
	t.Helper()
	return sh(t, `
kubectl get namespaces,crd,clusterroles,clusterrolebindings,priorityclasses,validatingadmissionpolicies,validatingadmissionpolicybindings -o name | grep -i sluice || true
kubectl get gatewayclasses,leases,secrets,services,endpointslices,roles,rolebindings,serviceaccounts -A --no-headers -o custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name | grep -i sluice || true
for node in node1 node2; do
	"$SCRIPTS/in.sh" $node env NODE=$node bash -euo pipefail -c '
		find /sys/fs/bpf -mindepth 1 | sed "s/^/$NODE pin /"
		nft list tables | sed -n "s/.*sluice/$NODE &/p"
		for link in lo eth0; do ip -o address show dev $link | awk "{print \"$NODE address\", \$2, \$4}" | sort; done
		bpftool cgroup show "$(findmnt -n -t cgroup2 -o TARGET | head -n 1)" | sed "s/^/$NODE program /"'
done`)
}

// more is a Gateway with an address of a pool and a UDP listener.
const more = `
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: pool, namespace: sluice-system}
spec: {addresses: {mode: Pool, pools: [POOL/32]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: pool}
spec:
  controllerName: sluice.dev/gateway-controller
  parametersRef: {group: sluice.dev, kind: GatewayConfig, name: pool, namespace: sluice-system}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: udp, namespace: default}
spec:
  gatewayClassName: pool
  listeners: [{name: udp, port: 5300, protocol: UDP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: udp, namespace: default}
spec:
  parentRefs: [{name: udp}]
  rules: [{backendRefs: [{name: udp, port: 5300}]}]
---
apiVersion: v1
kind: Service
metadata: {name: udp, namespace: default}
spec:
  selector: {app: echo}
  ports: [{port: 5300, protocol: UDP}]
`

func TestReadmeInstallsServesAndLeavesNothing(t *testing.T) {
	pool := os.Getenv("POOL")
	before := left(t)

	start := time.Now()
	out := sh(t, commands(t, "Three commands to the first decrypted byte:"))
	t.Logf("the first answer came after %.1f s", time.Since(start).Seconds())
	if !strings.Contains(out, `"host": "echo.example.com:8443"`) {
		t.Errorf("the commands print no answer of the app:\n%s", out)
	}

	if text, err := exec.Command("bash", "-c", "kubectl apply --server-side -f - <<'YAML'"+strings.ReplaceAll(more, "POOL", pool)+"YAML\n"+
		"kubectl wait --for=condition=Programmed --timeout=60s gateway/udp").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	during := left(t)
	for _, want := range []string{"gatewayconfigs.sluice.dev", "ValidatingAdmissionPolicy", "Lease ", "Secret ", "pin /sys/fs/bpf/sluice", "table inet sluice", pool, " sl_"} {
		if !strings.Contains(strings.ToLower(during), strings.ToLower(want)) {
			t.Errorf("this test looks for %q, and does not see it where Sluice is installed:\n%s", want, during)
		}
	}

	// Gateways of others may still be there.
	sh(t, commands(t, "To remove all of it:"))
	after := ""
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if after = left(t); after == before {
			return
		}
	}
	t.Errorf("what there was before (-) and after (+):\n%s", cmp.Diff(before, after))
}
