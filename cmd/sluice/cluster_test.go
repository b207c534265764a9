// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/netns"
	"github.com/sluice-gateway/sluice/bench/keyed"
	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

// cluster is an API server and nodes on a switch, and a host outside with the
// clients and the backend. What a controller would publish is there.
type cluster struct {
	t         *testing.T
	api       *apiserver.Server
	namespace string
	lan       *netns.Switch
	outside   *clusterHost
	nodes     map[string]*clusterNode
	pool      []netip.Addr // sorted
	keys      atomic.Uint64
}

// clusterHost is a machine on the switch.
type clusterHost struct {
	*netns.NS
	t    *testing.T
	port netns.Port
	mac  string
}

// clusterNode is one with an agent.
type clusterNode struct {
	*clusterHost
	name string
	of   *cluster
	api  *apiPath
	dir  string

	metrics string // the address, "" for none
	cmd     *exec.Cmd
	exited  chan struct{}
}

const gatewayPort, backendAddress = 443, "10.77.0.1:9000"

func newCluster(t *testing.T, nodes ...string) *cluster {
	t.Helper()
	needRoot(t)
	c := &cluster{t: t, nodes: map[string]*clusterNode{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	c.api, err = apiserver.Start(t.Context(), apiserver.Options{})
	must(err)
	t.Cleanup(func() {
		if err := c.api.Close(); err != nil {
			t.Error(err)
		}
	})
	c.lan, err = netns.NewSwitch()
	must(err)
	t.Cleanup(func() { _ = c.lan.Close() })
	c.outside = c.host(1)
	for i, name := range nodes {
		n := &clusterNode{clusterHost: c.host(2 + i), name: name, of: c, dir: t.TempDir()}
		n.api = newAPIPath(t, n.NS, strings.TrimPrefix(c.api.Config().Host, "https://"))
		c.nodes[name] = n
		c.kubeconfig(n)
	}
	c.backend()

	client := kubernetes.NewForConfigOrDie(c.api.Config())
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "sluice-"}}, metav1.CreateOptions{})
	must(err)
	c.namespace = ns.Name
	for i := range 4 {
		c.pool = append(c.pool, netip.MustParseAddr(fmt.Sprintf("10.77.0.%d", 200+i)), netip.MustParseAddr(fmt.Sprintf("fd77::%d", 200+i)))
	}
	slices.SortFunc(c.pool, netip.Addr.Compare)
	backend := netip.MustParseAddrPort(backendAddress)
	secret, err := publication.Encode(c.namespace, "shop/gw", &config.Snapshot{
		Addresses: c.pool,
		Listeners: []config.Listener{{Name: "shop/gw/tcp", Addresses: c.pool, Port: gatewayPort, Protocol: config.TCP, L4: []config.HostRoute{{Route: "TCPRoute/shop/app"}}}},
		Routes:    []config.Route{{Name: "TCPRoute/shop/app", Backends: []config.BackendRef{{Backend: "shop/app:9000", Weight: 1}}}},
		Backends:  []config.Backend{{Name: "shop/app:9000", Endpoints: []config.Endpoint{{Host: backend.Addr().String(), Port: backend.Port()}}}},
	})
	must(err)
	_, err = client.CoreV1().Secrets(c.namespace).Create(t.Context(), secret, metav1.CreateOptions{})
	must(err)
	return c
}

// host connects a machine with the addresses 10.77.0.N and fd77::N.
func (c *cluster) host(n int) *clusterHost {
	c.t.Helper()
	ns, err := netns.New()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { ns.Close() })
	h := &clusterHost{NS: ns, t: c.t}
	h.port, err = c.lan.Connect(ns, netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd77::%d/64", n)))
	if err != nil {
		c.t.Fatal(err)
	}
	h.on(func(l netlink.Link) error { h.mac = l.Attrs().HardwareAddr.String(); return nil })
	return h
}

// on does something with the link of a host, in it.
func (h *clusterHost) on(f func(netlink.Link) error) {
	h.t.Helper()
	err := h.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return f(l)
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// neighbor is the link-layer address under which the host knows another one.
func (h *clusterHost) neighbor(a netip.Addr) (mac string) {
	h.on(func(l netlink.Link) error {
		all, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range all {
			if ip, _ := netip.AddrFromSlice(n.IP); ip.Unmap() == a {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}

// held are the addresses of the pool that a node has, sorted.
func (n *clusterNode) held() (out []netip.Addr) {
	n.on(func(l netlink.Link) error {
		all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		for _, a := range all {
			if ip, _ := netip.AddrFromSlice(a.IP); slices.Contains(n.of.pool, ip.Unmap()) {
				out = append(out, ip.Unmap())
			}
		}
		return err
	})
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// report is what a node told last.
func (c *cluster) report(node string) publication.Node {
	c.t.Helper()
	l, err := kubernetes.NewForConfigOrDie(c.api.Config()).CoordinationV1().Leases(c.namespace).Get(c.t.Context(), publication.LeaseName(node), metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	n, err := publication.DecodeNode(l)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// kubeconfig says how a node reaches the API server.
func (c *cluster) kubeconfig(n *clusterNode) {
	c.t.Helper()
	if err := writeKubeconfig(filepath.Join(n.dir, "kubeconfig"), c.api.Config(), "https://"+n.api.address, ""); err != nil {
		c.t.Fatal(err)
	}
}

// writeKubeconfig writes what a configuration says to a file, but for the address
// of the API server. namespace is where objects are that name none.
func writeKubeconfig(file string, from *rest.Config, server, namespace string) error {
	k := clientcmdapi.NewConfig()
	k.Clusters["test"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: from.CAData}
	k.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificateData: from.CertData, ClientKeyData: from.KeyData}
	k.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test", Namespace: namespace}
	k.CurrentContext = "test"
	return clientcmd.WriteToFile(*k, file)
}

// start starts the node's agent, with the capabilities of the DaemonSet.
func (n *clusterNode) start() {
	n.t.Helper()
	n.cmd = exec.Command("nsenter", "--net="+n.Path(os.Getpid()),
		"setpriv", "--bounding-set", "-all,+net_admin,+bpf,+perfmon,+net_bind_service", "--inh-caps", "-all",
		"sluice", "agent", "-kubeconfig", filepath.Join(n.dir, "kubeconfig"), "-namespace", n.of.namespace, "-node", n.name,
		"-admin", filepath.Join(n.dir, "admin.sock"), "-metrics", cmp.Or(n.metrics, "off"), "-splice", "off", "-drain-timeout", "1s", "-take-over")
	log, err := os.OpenFile(filepath.Join(n.dir, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	n.cmd.Stderr = log
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	exited, cmd := make(chan struct{}), n.cmd
	n.exited = exited
	go func() { defer close(exited); _ = cmd.Wait(); log.Close() }()
	n.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		if text, _ := os.ReadFile(log.Name()); n.t.Failed() && n.cmd == cmd {
			n.t.Logf("log of node %s:\n%s", n.name, text)
		}
	})
}

// signal ends the agent.
func (n *clusterNode) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatal(err)
	}
	<-n.exited
}

// cut pulls the cable of the node: it reaches nobody.
func (n *clusterNode) cut() {
	n.t.Helper()
	n.api.cut()
	if err := n.of.lan.Unplug(n.port); err != nil {
		n.t.Fatal(err)
	}
}

func (n *clusterNode) mend() {
	n.t.Helper()
	if err := n.of.lan.Plug(n.port); err != nil {
		n.t.Fatal(err)
	}
	n.api.mend()
}

// backend answers each connection outside: a key and the stream of it come, the
// stream of the next key goes back.
func (c *cluster) backend() {
	c.t.Helper()
	l, err := c.outside.Listen("tcp", backendAddress)
	if err != nil {
		c.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
				var key [8]byte
				if _, err := io.ReadFull(conn, key[:]); err != nil {
					return // the client gave up
				}
				k := binary.BigEndian.Uint64(key[:])
				if err := keyed.Receive(conn, k, streamLength); err != nil {
					c.t.Errorf("backend: %v", err)
					return
				}
				if err := keyed.Send(conn, k+1, streamLength, 16<<10); err != nil {
					c.t.Errorf("backend: %v", err)
				}
			})
		}
	})
	c.t.Cleanup(func() { l.Close(); wg.Wait() })
}

const streamLength = 256 << 10

// connection is a client's, half of whose stream is sent.
type connection struct {
	net.Conn
	t    *testing.T
	key  uint64
	rest *keyed.Stream
}

// open connects to an address and sends the first half.
func (c *cluster) open(t *testing.T, a netip.Addr) *connection {
	t.Helper()
	conn, err := c.try(a, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	conn.t = t
	return conn
}

func (c *cluster) try(a netip.Addr, timeout time.Duration) (*connection, error) {
	out := &connection{t: c.t, key: c.keys.Add(2)}
	out.rest = keyed.New(out.key)
	err := c.outside.Do(func() (err error) {
		out.Conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, gatewayPort).String(), timeout)
		return err
	})
	if err != nil {
		return nil, err
	}
	_ = out.SetDeadline(time.Now().Add(2 * time.Minute))
	half := make([]byte, streamLength/2)
	_, _ = out.rest.Read(half)
	_, err = out.Write(append(binary.BigEndian.AppendUint64(nil, out.key), half...))
	return out, err
}

// finish sends the second half and checks the answer.
func (c *connection) finish() {
	c.t.Helper()
	defer c.Close()
	half := make([]byte, streamLength/2)
	_, _ = c.rest.Read(half)
	_, err := c.Write(half)
	if err == nil {
		err = c.Conn.(*net.TCPConn).CloseWrite()
	}
	if err == nil {
		err = keyed.Receive(c, c.key+1, streamLength)
	}
	if err != nil {
		c.t.Errorf("connection to %s: %v", c.RemoteAddr(), err)
	}
}
