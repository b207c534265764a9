// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"crypto/md5"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// server is one of Debian's, as a pod, behind a TLSRoute of its name.
const server = `
---
apiVersion: v1
kind: Pod
metadata: {name: @NAME@, labels: {app: @NAME@}}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999}
  containers:
  - name: server
    image: sluice.test/services:1
    imagePullPolicy: Never
    workingDir: /data
    command: [/bin/sh, -c, %q]
    readinessProbe: {tcpSocket: {port: @PORT@}, periodSeconds: 1}
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: @NAME@}
spec: {selector: {app: @NAME@}, ports: [{port: @PORT@}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: @NAME@}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [@NAME@.e2e.test]
  rules: [{backendRefs: [{name: @NAME@, port: @PORT@}]}]
`

var servers = []struct{ name, port, command string }{
	{"postgres", "5432", `/usr/lib/postgresql/15/bin/initdb -D /data/pg -A trust -U postgres --locale=C --no-sync &&
		echo "host all all 0.0.0.0/0 trust" >>/data/pg/pg_hba.conf &&
		exec /usr/lib/postgresql/15/bin/postgres -D /data/pg -c listen_addresses=* -c unix_socket_directories=/data -c fsync=off`},
	{"mariadb", "3306", `exec /usr/sbin/mariadbd --no-defaults --datadir=/data --skip-grant-tables --lc-messages-dir=/usr/share/mysql
		--socket=/data/socket --pid-file=/data/pid --skip-name-resolve --bind-address=0.0.0.0 --port=3306`},
	{"redis", "6379", `exec /usr/bin/redis-server --bind 0.0.0.0 --protected-mode no --save "" --dir /data`},
	{"mosquitto", "1883", `printf "listener 1883\nallow_anonymous true\n" >conf && exec /usr/sbin/mosquitto -c conf`},
}

// PostgreSQL, MariaDB, redis and mosquitto behind one port of one address, told
// apart by server name, with their own clients outside of the cluster.
//
// redis-cli and the clients of mosquitto speak TLS from the first byte. psql 15 and
// mariadb do not: they ask in the clear whether the server wants TLS, which carries
// no name to choose by. So socat wraps those two.
func TestRealServersByName(t *testing.T) {
	g := serveGateway(t)
	if out, err := exec.Command("./services.sh", g.nodes...).CombinedOutput(); err != nil {
		t.Fatalf("services.sh: %v\n%s", err, out)
	}
	text := ""
	for _, s := range servers {
		one := strings.NewReplacer("@NAME@", s.name, "@PORT@", s.port).Replace(server)
		text += fmt.Sprintf(one, strings.Join(strings.Fields(s.command), " "))
	}
	mustCommand(t, text, "kubectl.sh", "-n", g.namespace, "apply", "-f", "-")
	kubectl(t, "-n", g.namespace, "wait", "--for=condition=Ready", "--timeout=180s", "pod", "--all")
	c := newClients(t, g)

	t.Run("redis", func(t *testing.T) {
		value := random(4 << 20)
		c.run(t, value, "redis-cli", c.redis("redis.e2e.test", "-x", "set", "key")...)
		if got := c.run(t, "", "redis-cli", c.redis("redis.e2e.test", "--raw", "get", "key")...); got != value+"\n" {
			t.Errorf("%d bytes came back, and others", len(got))
		}
	})
	t.Run("mosquitto", func(t *testing.T) {
		value := random(1 << 20)
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		// They take the server name from -h, so it must lead to the Gateway.
		named := func(arguments ...string) string {
			return c.run(t, "", "unshare", append([]string{"--mount", "sh", "-ec",
				`mount --bind "$0" /etc/hosts; exec "$@"`, c.hosts}, arguments...)...)
		}
		at := []string{"-h", "mosquitto.e2e.test", "-p", "443", "--cafile", c.ca, "-t", "news", "-q", "1"}
		named(append([]string{"mosquitto_pub", "-r", "-f", file}, at...)...)
		if got := named(append([]string{"mosquitto_sub", "-C", "1", "-N"}, at...)...); got != value {
			t.Errorf("%d bytes came back, and others", len(got))
		}
	})
	const rows = 100_000
	t.Run("postgres", func(t *testing.T) {
		c.wrap(t, "15432", "postgres.e2e.test")
		c.rows(t, rows, "|", "psql", "-h", "127.0.0.1", "-p", "15432", "-U", "postgres", "-d", "sslmode=disable dbname=postgres", "-tAc",
			fmt.Sprintf("select g, md5(g::text) from generate_series(1,%d) g", rows))
	})
	t.Run("mariadb", func(t *testing.T) {
		c.wrap(t, "13306", "mariadb.e2e.test")
		c.rows(t, rows, "\t", "mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", "13306", "--skip-ssl", "-NBe",
			fmt.Sprintf("select seq, md5(seq) from test.seq_1_to_%d", rows), "--init-command=create database if not exists test")
	})
	t.Run("tenant", func(t *testing.T) { c.tenant(t) })
	t.Run("another", func(t *testing.T) {
		other := serveGateway(t)
		if other.address == g.address {
			t.Errorf("both Gateways have %s", g.address)
		}
		c.run(t, "", "redis-cli", c.redis("redis.e2e.test", "ping")...)
		if err := other.answers("redis.e2e.test", ""); err == nil {
			t.Error("the Gateway of another namespace serves the name, too")
		}
		t.Logf("%s and %s, both with port 443", g.address, other.address)
	})
}

// clients are those of Debian's packages, outside of the nodes.
type clients struct {
	*gateway
	ca, hosts string // files
}

func newClients(t *testing.T, g *gateway) *clients {
	t.Helper()
	dir := t.TempDir()
	c := &clients{g, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "hosts")}
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: g.authority.Raw})
	for file, text := range map[string]string{c.ca: string(authority), c.hosts: g.address + " mosquitto.e2e.test\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *clients) try(input, program string, arguments ...string) (string, error) {
	cmd := exec.Command("timeout", append([]string{"60", program}, arguments...)...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", program, err, &complaint)
	}
	return out.String(), nil
}

func (c *clients) run(t *testing.T, input, program string, arguments ...string) (out string) {
	t.Helper()
	within(t, 2*time.Minute, func() (err error) { // a route may be on its way to the nodes
		out, err = c.try(input, program, arguments...)
		return err
	})
	return out
}

func (c *clients) redis(name string, words ...string) []string {
	return append([]string{"-e", "-h", c.address, "-p", "443", "--tls", "--sni", name, "--cacert", c.ca}, words...)
}

// wrap has socat speak TLS for a client that cannot, until the test ends.
func (c *clients) wrap(t *testing.T, port, name string) {
	t.Helper()
	cmd := exec.Command("socat", "TCP-LISTEN:"+port+",bind=127.0.0.1,reuseaddr,fork",
		fmt.Sprintf("OPENSSL:%s:443,snihost=%s,commonname=%[2]s,cafile=%s", c.address, name, c.ca))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// rows wants a number of them, each with its MD5.
func (c *clients) rows(t *testing.T, n int, separator, program string, arguments ...string) {
	t.Helper()
	out := strings.Split(strings.TrimSpace(c.run(t, "", program, arguments...)), "\n")
	if len(out) != n {
		t.Fatalf("%d rows, want %d", len(out), n)
	}
	for i, row := range out {
		if want := fmt.Sprintf("%d%s%x", i+1, separator, md5.Sum(fmt.Append(nil, i+1))); row != want {
			t.Fatalf("row %q, want %q", row, want)
		}
	}
}

// tenant has another namespace bring a listener of its own to the Gateway, by a
// ListenerSet, for a Service that it may use as long as a ReferenceGrant says so.
func (c *clients) tenant(t *testing.T) {
	tenant := c.namespace + "-tenant"
	kubectl(t, "create", "namespace", tenant)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", tenant, "--timeout=120s") })
	kubectl(t, "-n", c.namespace, "patch", "gateway/gateway", "--type=merge", "-p",
		fmt.Sprintf(`{"spec":{"allowedListeners":{"namespaces":{"from":"Selector","selector":{"matchLabels":{"kubernetes.io/metadata.name":%q}}}}}}`, tenant))
	theirs := &gateway{namespace: tenant, authority: c.authority, signer: c.signer}
	if err := theirs.rotate(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	apply := func(namespace, text string) {
		mustCommand(t, strings.NewReplacer("@OURS@", c.namespace, "@TENANT@", tenant).Replace(text), "kubectl.sh", "-n", namespace, "apply", "-f", "-")
	}
	apply(tenant, `
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {name: tenant}
spec:
  parentRef: {name: gateway, namespace: @OURS@}
  listeners:
  - name: tls
    protocol: TLS
    port: 443
    hostname: tenant.e2e.test
    tls: {mode: Terminate, certificateRefs: [{name: certificate}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tenant}
spec:
  parentRefs: [{kind: ListenerSet, name: tenant}]
  hostnames: [tenant.e2e.test]
  rules: [{backendRefs: [{name: redis, namespace: @OURS@, port: 6379}]}]
`)
	refused := func() {
		t.Helper()
		kubectl(t, "-n", tenant, "wait", "--timeout=120s", "tlsroute/tenant",
			`--for=jsonpath={.status.parents[0].conditions[?(@.type=="ResolvedRefs")].reason}=RefNotPermitted`)
		within(t, time.Minute, func() error {
			if out, err := c.try("", "redis-cli", c.redis("tenant.e2e.test", "ping")...); err == nil {
				return fmt.Errorf("without a grant redis says %q", out)
			}
			return nil
		})
	}
	refused()
	apply(c.namespace, `
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: tenant}
spec:
  from: [{group: gateway.networking.k8s.io, kind: TLSRoute, namespace: @TENANT@}]
  to: [{group: "", kind: Service, name: redis}]
`)
	if out := c.run(t, "", "redis-cli", c.redis("tenant.e2e.test", "ping")...); out != "PONG\n" {
		t.Errorf("redis says %q", out)
	}
	kubectl(t, "-n", c.namespace, "delete", "referencegrant/tenant")
	refused()
}

// random is text that nobody has by chance.
func random(n int) string {
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%016x", rand.Uint64())
	}
	return b.String()[:n]
}
