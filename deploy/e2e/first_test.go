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

	corev1 "k8s.io/api/core/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// How long it takes from kubectl apply of a Gateway, its Secret and a TLSRoute to
// the first decrypted byte, a hundred times in full size.
func TestTimeToTheFirstByte(t *testing.T) {
	rounds := 20
	if full() {
		rounds = 100
	}
	g := serveGateway(t)
	pod := g.nodes[0]
	data, err := json.Marshal(get(t, g.namespace, "certificate", &corev1.Secret{}).Data)
	if err != nil {
		t.Fatal(err)
	}
	var total, applied []time.Duration
	for i := range rounds {
		name := fmt.Sprintf("first-%d", i)
		text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","type":"kubernetes.io/tls","metadata":{"name":%q},"data":%s}`, name, data) +
			strings.NewReplacer("{name: gateway}", "{name: "+name+"}", "{name: certificate}", "{name: "+name+"}").Replace(
				"\n---"+objects[:strings.Index(objects, "---")]+strings.NewReplacer("@NAME@", name, "@SERVICE@", pod).Replace(route))
		start := time.Now()
		mustCommand(t, text, "kubectl.sh", "-n", g.namespace, "apply", "-f", "-")
		applied = append(applied, time.Since(start))
		own := &gateway{namespace: g.namespace, roots: g.roots}
		within(t, time.Minute, func() error {
			at := get(t, g.namespace, name, &gatewayv1.Gateway{}).Status.Addresses
			if len(at) == 0 {
				return fmt.Errorf("Gateway %s has no address", name)
			}
			own.address = at[0].Value
			c, err := own.dialWithin(500*time.Millisecond, name+".e2e.test")
			if err != nil {
				return err
			}
			total = append(total, time.Since(start))
			return c.finish()
		})
		kubectl(t, "-n", g.namespace, "delete", "gateway/"+name, "tlsroute/"+name, "secret/"+name, "--wait=false")
	}
	slices.Sort(total)
	slices.Sort(applied)
	ms := time.Millisecond
	t.Logf("%d times, from the start of kubectl apply to the first decrypted byte: median %v, p99 %v, max %v; kubectl apply itself: median %v, p99 %v",
		rounds, total[rounds/2].Round(ms), total[rounds*99/100-1].Round(ms), total[rounds-1].Round(ms), applied[rounds/2].Round(ms), applied[rounds*99/100-1].Round(ms))
}
