// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/sluice-gateway/sluice/bench/keyed"
)

// TestMistakes makes the mistakes that people make, reads what kubectl describe
// says about them, does what that says, and sees bytes flow. The scripts below
// testdata/mistakes run against a real API server, a controller and an agent, each
// in a namespace of its own, $NS, with another one beside it, $OTHER.
//
// good.yaml has what works, if it is applied with the Secret shop: a Gateway gw, a
// TLSRoute, a Service and its EndpointSlice, all called shop, for
// shop.example.com. shop.crt and shop.key are a certificate for that name. Beside
// the commands of testscript there are:
//
//	kubectl ARGUMENTS...       is kubectl
//	replace FILE OLD NEW       replaces text that must be there
//	says OBJECT TEXT           waits until kubectl describe OBJECT says a text, in which $NAME is expanded, too
//	flows [GATEWAY] [NAME]     waits until keyed streams pass over TLS through gw, or another Gateway, by that
//	                           server name (shop.example.com); negated: until they do not, as nodes take a moment
//	certificate FILE NAME...   writes FILE.crt and FILE.key
func TestMistakes(t *testing.T) {
	c := newCluster(t, "node")
	c.control()
	c.nodes["node"].start()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/mistakes",
		Setup: func(e *testscript.Env) error {
			ns := strings.ReplaceAll(strings.TrimPrefix(filepath.Base(e.WorkDir), "script-"), "_", "-")
			for _, n := range []string{ns, ns + "-other"} {
				o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n}}
				if _, err := kubernetes.NewForConfigOrDie(c.api.Config()).CoreV1().Namespaces().Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
					return err
				}
			}
			kubeconfig := filepath.Join(e.WorkDir, "kubeconfig")
			e.Vars = append(e.Vars, "NS="+ns, "OTHER="+ns+"-other", "KUBECONFIG="+kubeconfig, "HOME="+e.WorkDir)
			return errors.Join(
				writeKubeconfig(kubeconfig, c.api.Config(), c.api.Config().Host, ns),
				os.WriteFile(filepath.Join(e.WorkDir, "good.yaml"), []byte(rightObjects), 0o600),
				writePair(filepath.Join(e.WorkDir, "shop"), "shop.example.com"))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"kubectl": func(ts *testscript.TestScript, neg bool, args []string) {
				err := ts.Exec(c.api.Binary(), append([]string{"kubectl"}, args...)...)
				if (err != nil) != neg {
					ts.Fatalf("kubectl %q: %v", args, err)
				}
			},
			"replace": func(ts *testscript.TestScript, _ bool, args []string) {
				was, old, now := ts.ReadFile(args[0]), os.Expand(args[1], ts.Getenv), os.Expand(args[2], ts.Getenv)
				if !strings.Contains(was, old) {
					ts.Fatalf("no %q in %s", old, args[0])
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(was, old, now)), 0o600))
			},
			"certificate": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(writePair(ts.MkAbs(args[0]), args[1:]...))
			},
			"says":  c.says,
			"flows": c.flows,
		},
	})
}

// rightObjects are without mistake.
const rightObjects = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  gatewayClassName: sluice
  listeners:
  - name: tls
    protocol: TLS
    port: 443
    hostname: shop.example.com
    allowedRoutes: {namespaces: {from: Same}}
    tls: {mode: Terminate, certificateRefs: [{name: shop}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: gw}]
  hostnames: [shop.example.com]
  rules:
  - backendRefs: [{name: shop, port: 9000}]
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {ports: [{port: 9000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: shop-1, labels: {kubernetes.io/service-name: shop}}
addressType: IPv4
ports: [{port: 9000}]
endpoints: [{addresses: [10.77.0.1]}]
`

// control starts a controller, with a class that takes addresses from a pool.
func (c *cluster) control() {
	c.t.Helper()
	if err := c.api.Apply(c.t.Context(), fmt.Appendf(nil, `
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: sluice, namespace: %s}
spec: {addresses: {mode: Pool, pools: [10.77.0.100-10.77.0.199]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec:
  controllerName: sluice.dev/gateway-controller
  parametersRef: {group: sluice.dev, kind: GatewayConfig, name: sluice, namespace: %[1]s}
`, c.namespace)); err != nil {
		c.t.Fatal(err)
	}
	dir := c.t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := writeKubeconfig(kubeconfig, c.api.Config(), c.api.Config().Host, ""); err != nil {
		c.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command("sluice", "controller", "-kubeconfig", kubeconfig, "-namespace", c.namespace, "-metrics", "off")
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		log.Close()
		if text, _ := os.ReadFile(log.Name()); c.t.Failed() {
			c.t.Logf("log of the controller:\n%s", text)
		}
	})
}

// mistakePatience is how long a script waits for what has to come.
const mistakePatience = 3 * time.Minute

func (c *cluster) says(ts *testscript.TestScript, _ bool, args []string) {
	want := os.Expand(args[1], ts.Getenv)
	for deadline := time.Now().Add(mistakePatience); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(c.api.Binary(), "kubectl", "describe", args[0])
		said := ts.ReadFile("stdout")
		if err == nil && strings.Contains(said, want) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v; not said: %s", err, want)
		}
	}
}

func (c *cluster) flows(ts *testscript.TestScript, neg bool, args []string) {
	gateway, name := "gw", "shop.example.com"
	if len(args) > 0 {
		gateway = args[0]
	}
	if len(args) > 1 {
		name = args[1]
	}
	roots := x509.NewCertPool()
	chains, err := filepath.Glob(ts.MkAbs("*.crt"))
	ts.Check(err)
	for _, chain := range chains {
		roots.AppendCertsFromPEM([]byte(ts.ReadFile(chain)))
	}
	for deadline := time.Now().Add(mistakePatience); ; time.Sleep(50 * time.Millisecond) {
		err := c.flow(ts.Getenv("NS"), gateway, name, roots)
		switch {
		case (err != nil) == neg:
			return
		case time.Now().After(deadline):
			ts.Fatalf("bytes flow is %v: %v", err == nil, err)
		}
	}
}

// flow sends a stream to the backend through a Gateway, and gets another one.
func (c *cluster) flow(namespace, gateway, name string, roots *x509.CertPool) error {
	of := schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o, err := dynamic.NewForConfigOrDie(c.api.Config()).Resource(of).Namespace(namespace).Get(ctx, gateway, metav1.GetOptions{})
	if err != nil {
		return err
	}
	addresses, _ := o.Object["status"].(map[string]any)["addresses"].([]any)
	if len(addresses) == 0 {
		return fmt.Errorf("Gateway %s has no address", gateway)
	}
	address, _ := addresses[0].(map[string]any)["value"].(string)
	var raw net.Conn
	err = c.outside.Do(func() (err error) {
		raw, err = net.DialTimeout("tcp", net.JoinHostPort(address, fmt.Sprint(gatewayPort)), 5*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	conn := tls.Client(strict{raw}, &tls.Config{ServerName: name, RootCAs: roots})
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	key := c.keys.Add(2)
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, key)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- errors.Join(keyed.Send(conn, key, streamLength, 16<<10), conn.CloseWrite()) }()
	return errors.Join(keyed.Receive(conn, key+1, streamLength), <-sent)
}

// writePair writes a certificate and its key to files of that name.
func writePair(file string, names ...string) error {
	c, err := newCertificate(time.Now().Add(24*time.Hour), names...)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(file+".crt", c.chain, 0o600), os.WriteFile(file+".key", c.key, 0o600))
}
