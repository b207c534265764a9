// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The objects of deploy/quickstart/certificates-and-names.md are served, in the
// order in which the page has them.
func TestThePageOnCertificatesAndNames(t *testing.T) {
	page, err := os.ReadFile("../../deploy/quickstart/certificates-and-names.md")
	if err != nil {
		t.Fatal(err)
	}
	var objects []string
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		objects = append(objects, m[1])
	}
	if len(objects) != 3 {
		t.Fatalf("the page has %d blocks of objects, want the Gateway, the Secret and the TCPRoute", len(objects))
	}
	const name = "orders.db.example.com"
	secure, plain := freePort(t), freePort(t)
	atLoopback := strings.NewReplacer(": 5432\n", ": "+secure+"\n", "port: 5433", "port: "+plain,
		"gatewayClassName: sluice\n", "gatewayClassName: sluice\n  addresses: [{value: 127.0.0.1}]\n")
	dir := t.TempDir()
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("gateway.yaml", atLoopback.Replace(objects[0]))
	write("names.yaml", atLoopback.Replace(objects[2]))
	write("backend.yaml", fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {ports: [{port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: orders-1, labels: {kubernetes.io/service-name: orders}}
addressType: IPv4
ports: [{port: %s}]
endpoints: [{addresses: [127.0.0.1]}]
`, port(serveTCP(t, echo))))

	admin := filepath.Join(t.TempDir(), "admin.sock")
	cmd := exec.Command("sluice", "run", "-admin", admin, "-metrics", "off", "-splice", "off", dir)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	status := func() string {
		out, _ := exec.Command("sluice", "status", "-admin", admin, "-o", "yaml").CombinedOutput()
		return string(out)
	}
	for _, m := range regexp.MustCompile("(?s)```text\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		_, message, _ := strings.Cut(strings.TrimSpace(m[1]), "): ") // a listener's condition
		eventually(t, "the status says "+message, func() bool { return strings.Contains(status(), message) })
	}
	serial := ""
	for range 2 { // the second is a renewal
		c, err := newCertificate(time.Now().Add(time.Hour), name)
		if err != nil {
			t.Fatal(err)
		}
		data := func(p []byte) string { return " " + base64.StdEncoding.EncodeToString(p) + "\n" }
		write("secret.yaml", strings.NewReplacer(" CA\n", data(c.chain), " CHAIN\n", data(c.chain), " KEY\n", data(c.key)).Replace(objects[1]))
		serial = c.serial.String()
		eventually(t, "certificate "+serial+" is served", func() bool {
			conn, err := tls.Dial("tcp", "127.0.0.1:"+secure, &tls.Config{ServerName: name, InsecureSkipVerify: true})
			if err != nil {
				return false
			}
			defer conn.Close()
			return conn.ConnectionState().PeerCertificates[0].SerialNumber.String() == serial
		})
		if err := talk(secure, name); err != nil {
			t.Error(err)
		}
	}
	// What external-dns reads.
	if s := status(); strings.Count(s, "value: 127.0.0.1") != 2 {
		t.Errorf("the Gateways have no addresses in their status:\n%s", s)
	}
}
