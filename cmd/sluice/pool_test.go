// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/keyed"
)

// TestAFolderGivesAGatewayAnAddressOfThePool runs a gateway on a machine of its
// own, with another one as the client.
func TestAFolderGivesAGatewayAnAddressOfThePool(t *testing.T) {
	needRoot(t)
	const size = 4 << 20
	machine, other := newNS(t), newNS(t)
	if err := netns.Veth(machine, other, "slpool", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}); err != nil {
		t.Fatal(err)
	}
	backend, err := machine.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if err := keyed.Receive(c, 1, size); err != nil {
					t.Error("to the backend: ", err)
				}
				_ = keyed.Send(c, 2, size, 16<<10)
			}()
		}
	}()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gateway.yaml"), []byte(strings.ReplaceAll(pooled, "ENDPOINT", port(backend.Addr()))), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := filepath.Join(t.TempDir(), "admin.sock")
	start := func() *exec.Cmd {
		cmd := exec.Command("nsenter", "--net="+machine.Path(os.Getpid()), "sluice", "run", "-admin", admin, "-metrics", "off", "-splice", "off", dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd
	}
	first := start()
	talkTo := func(address string) {
		t.Helper()
		c := reach(t, other, address)
		defer c.Close()
		sent := make(chan error, 1)
		go func() { sent <- errors.Join(keyed.Send(c, 1, size, 16<<10), c.CloseWrite()) }()
		if err := errors.Join(keyed.Receive(c, 2, size), <-sent); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	// 192.0.2.1 is the machine's own.
	talkTo("192.0.2.3:7000")
	if got := held(t, machine); !slices.Equal(got, []string{"127.0.0.1/8", "192.0.2.1/24", "192.0.2.3/32"}) {
		t.Errorf("addresses %q", got)
	}

	// Killed, and back before the kernel lets go of the address: it is no
	// address of the machine, but that of the Gateway again.
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	second := start()
	talkTo("192.0.2.3:7000")

	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Error(err)
	}
	if got := held(t, machine); !slices.Equal(got, []string{"127.0.0.1/8", "192.0.2.1/24"}) {
		t.Errorf("addresses after the end %q", got)
	}
}

const pooled = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: pooled}
spec:
  controllerName: sluice.dev/gateway-controller
  parametersRef: {group: sluice.dev, kind: GatewayConfig, namespace: default, name: pool}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: pool}
spec: {addresses: {mode: Pool, pools: [192.0.2.1-192.0.2.1, 192.0.2.3-192.0.2.9]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw}
spec: {gatewayClassName: pooled, listeners: [{name: tcp, protocol: TCP, port: 7000}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: route}
spec: {parentRefs: [{name: gw}], rules: [{backendRefs: [{name: backend, port: 1}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: backend}
spec: {ports: [{port: 1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: backend-1, labels: {kubernetes.io/service-name: backend}}
addressType: IPv4
ports: [{port: ENDPOINT}]
endpoints: [{addresses: [127.0.0.1]}]
`

func newNS(t *testing.T) *netns.NS {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// reach connects from a namespace as soon as something listens.
func reach(t *testing.T, from *netns.NS, address string) *net.TCPConn {
	t.Helper()
	var c net.Conn
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := from.Do(func() (err error) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err = (&net.Dialer{}).DialContext(ctx, "tcp", address)
			return err
		})
		if err == nil {
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			return c.(*net.TCPConn)
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// held lists the IPv4 addresses of a namespace.
func held(t *testing.T, ns *netns.NS) (out []string) {
	t.Helper()
	if err := ns.Do(func() error {
		all, err := netlink.AddrList(nil, netlink.FAMILY_V4)
		for _, a := range all {
			out = append(out, a.IPNet.String())
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}
