// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-gateway/sluice/agent/netns"
)

// observed starts a gateway in a namespace of its own, with listeners of all kinds,
// an endpoint that refuses, a route without endpoints, a certificate that ends
// within the hour, and clients until the test ends.
func observed(t *testing.T) *netns.NS {
	t.Helper()
	ns := newNS(t)
	listen := func(handle func(net.Conn)) string {
		l, err := ns.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() { // ends with the listener, its connections with their clients
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go handle(c)
			}
		}()
		return port(l.Addr())
	}
	copied := listen(func(c net.Conn) { echo(c.(*net.TCPConn)); c.Close() })
	web, err := ns.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "here") }), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(web) }()
	t.Cleanup(func() { server.Close() })
	var datagrams net.PacketConn
	if err := ns.Do(func() (err error) { datagrams, err = net.ListenPacket("udp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { datagrams.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := datagrams.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = datagrams.WriteTo(buf[:n], from)
		}
	}()
	_, udpPort, _ := net.SplitHostPort(datagrams.LocalAddr().String())

	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	if err := os.Mkdir(conf, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := newCertificate(time.Now().Add(time.Hour), serverName)
	if err != nil {
		t.Fatal(err)
	}
	objects := strings.NewReplacer("NAME", serverName, "COPIED", copied, "WEB", port(web.Addr()), "DATAGRAMS", udpPort).Replace(observedObjects)
	for name, content := range map[string][]byte{"certificate.yaml": c.secret("certificate"), "objects.yaml": []byte(objects)} {
		if err := os.WriteFile(filepath.Join(conf, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pins := filepath.Join(pinsRoot, "observed")
	t.Cleanup(func() { _ = os.RemoveAll(pins) })
	background(t, exec.Command("nsenter", "--net="+ns.Path(os.Getpid()), "sluice", "run", "-admin", filepath.Join(dir, "admin.sock"),
		"-metrics", "127.0.0.1:9464", "-pin-dir", pins, "-drain-timeout", "1s", conf))
	reach(t, ns, "127.0.0.1:443").Close()

	done := make(chan struct{})
	var clients sync.WaitGroup
	clients.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
				visit(ns)
			}
		}
	})
	t.Cleanup(func() { close(done); clients.Wait() })
	return ns
}

// visit does once what clients do. What comes of it, the metrics tell.
func visit(ns *netns.NS) {
	dial := func(network, address string) (c net.Conn) {
		_ = ns.Do(func() (err error) { c, err = net.Dial(network, address); return err })
		if c != nil {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		}
		return c
	}
	buf := make([]byte, 1000)
	talk := func(c net.Conn) {
		for range 10 { // it takes some reads to be spliced
			if _, err := c.Write(buf); err != nil {
				return
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
		}
	}
	for _, name := range []string{serverName, "nobody.example.com"} {
		if c := dial("tcp", "127.0.0.1:443"); c != nil {
			talk(tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}))
			c.Close()
		}
	}
	for _, address := range []string{"127.0.0.1:5432", "127.0.0.1:5433"} {
		if c := dial("tcp", address); c != nil {
			talk(c)
			c.Close()
		}
	}
	if c := dial("udp", "127.0.0.1:5353"); c != nil {
		_, _ = c.Write([]byte("hello"))
		_ = c.SetDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.Read(buf)
		c.Close()
	}
	if resp, err := clientIn(ns).Get("http://127.0.0.1:8080/"); err == nil {
		resp.Body.Close()
	}
}

const observedObjects = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec:
  gatewayClassName: sluice
  addresses: [{value: 127.0.0.1}]
  listeners:
  - {name: tls, protocol: TLS, port: 443, tls: {mode: Terminate, certificateRefs: [{name: certificate}]}}
  - {name: tcp, protocol: TCP, port: 5432}
  - {name: empty, protocol: TCP, port: 5433}
  - {name: udp, protocol: UDP, port: 5353}
  - {name: http, protocol: HTTP, port: 8080}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: tls}
spec: {parentRefs: [{name: gw, sectionName: tls}], hostnames: [NAME], rules: [{backendRefs: [{name: copied, port: 1}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: tcp}
spec: {parentRefs: [{name: gw, sectionName: tcp}], rules: [{backendRefs: [{name: copied, port: 1}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: empty}
spec: {parentRefs: [{name: gw, sectionName: empty}], rules: [{backendRefs: [{name: nobody, port: 1}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: udp}
spec: {parentRefs: [{name: gw, sectionName: udp}], rules: [{backendRefs: [{name: datagrams, port: 1}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: http}
spec: {parentRefs: [{name: gw, sectionName: http}], rules: [{backendRefs: [{name: web, port: 1}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: copied}
spec: {ports: [{port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {ports: [{port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: datagrams}
spec: {ports: [{port: 1, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: copied-1, labels: {kubernetes.io/service-name: copied}}
ports: [{port: COPIED}]
endpoints: [{addresses: [127.0.0.1]}, {addresses: [127.0.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
ports: [{port: WEB}]
endpoints: [{addresses: [127.0.0.1]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata: {name: datagrams-1, labels: {kubernetes.io/service-name: datagrams}}
ports: [{port: DATAGRAMS, protocol: UDP}]
endpoints: [{addresses: [127.0.0.1]}]
`
