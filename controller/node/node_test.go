// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/bench/leak"
	"github.com/sluice-gateway/sluice/controller/node"
	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

var api *apiserver.Server

func TestMain(m *testing.M) {
	os.Exit(leak.Of(func() int {
		s, err := apiserver.Start(context.Background(), apiserver.Options{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		api = s
		code := m.Run()
		if err := api.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1")).Run())
}

// recorder is a server that keeps what it is given.
type recorder struct {
	mu       sync.Mutex
	applied  *config.Snapshot
	problems map[string]string
}

func (r *recorder) Apply(s *config.Snapshot) config.Report {
	r.mu.Lock()
	r.applied = s
	r.mu.Unlock()
	return r.Report()
}

func (r *recorder) Report() config.Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := config.Report{Listeners: map[string]string{}}
	for _, l := range r.applied.Listeners {
		out.Listeners[l.Name] = r.problems[l.Name]
	}
	return out
}

// endpoints are those of the only backend that is served, "none" without it.
func (r *recorder) endpoints() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.applied == nil || len(r.applied.Backends) != 1 {
		return "none"
	}
	var hosts []string
	for _, e := range r.applied.Backends[0].Endpoints {
		hosts = append(hosts, e.Host)
	}
	return strings.Join(hosts, " ")
}

// world is a namespace of Sluice, one of users, and a node.
type world struct {
	t         *testing.T
	client    kubernetes.Interface
	own, shop string
	served    *recorder
	source    *node.Source
	stop      context.CancelFunc
	ended     chan error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, client: kubernetes.NewForConfigOrDie(api.Config())}
	for _, to := range []*string{&w.own, &w.shop} {
		n, err := w.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		*to = n.Name
	}
	return w
}

// start starts the agent of node n1.
func (w *world) start(identity string) {
	w.t.Helper()
	w.startNode("n1", identity, api.Config(), nil)
}

// startNode starts the agent of a node, in a process of its own as far as the
// API server can tell.
func (w *world) startNode(name, identity string, config *rest.Config, holder node.Holder) {
	w.t.Helper()
	s, err := node.New(node.Options{Config: config, Namespace: w.own, Node: name, Identity: identity, Version: "test", Holder: holder,
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Log: slog.New(slog.NewTextHandler(w.t.Output(), nil))})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.source, w.served, w.stop, w.ended = s, &recorder{problems: map[string]string{}}, cancel, make(chan error, 1)
	served, ended := w.served, w.ended
	go func() { ended <- s.Run(ctx, served) }()
	w.t.Cleanup(func() {
		cancel()
		<-ended
		s.Close()
	})
}

func (w *world) end() {
	w.stop()
	if err := <-w.ended; err != nil {
		w.t.Error(err)
	}
	w.ended <- nil // for the cleanup
}

func (w *world) part(gateway string, port uint16) *config.Snapshot {
	route, backend := "TCPRoute/"+w.shop+"/redis", w.shop+"/redis:6379"
	return &config.Snapshot{
		Listeners: []config.Listener{{Name: gateway + "/tcp", Port: port, Protocol: config.TCP, L4: []config.HostRoute{{Route: route}}}},
		Routes:    []config.Route{{Name: route, Backends: []config.BackendRef{{Backend: backend, Weight: 1}}}},
		Backends:  []config.Backend{{Name: backend, Service: &config.Service{Namespace: w.shop, Name: "redis", Number: 6379}}},
	}
}

// publish publishes a part and returns its resourceVersion.
func (w *world) publish(gateway string, part *config.Snapshot) uint64 {
	w.t.Helper()
	s, err := publication.Encode(w.own, gateway, part)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.put(s)
}

func (w *world) put(s *corev1.Secret) uint64 {
	w.t.Helper()
	secrets := w.client.CoreV1().Secrets(w.own)
	got, err := secrets.Create(w.t.Context(), s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		got, err = secrets.Update(w.t.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return publication.Version(got)
}

// endpoints makes the Service redis have endpoints.
func (w *world) endpoints(addresses ...string) {
	w.t.Helper()
	port, protocol := int32(6379), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: w.shop, Name: "redis-1",
		Labels: map[string]string{discoveryv1.LabelServiceName: "redis"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}}}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	slices := w.client.DiscoveryV1().EndpointSlices(w.shop)
	_, err := slices.Create(w.t.Context(), s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = slices.Update(w.t.Context(), s, metav1.UpdateOptions{})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) report() publication.Node { return w.reportOf("n1") }

func (w *world) reportOf(node string) publication.Node {
	w.t.Helper()
	l, err := w.client.CoordinationV1().Leases(w.own).Get(w.t.Context(), publication.LeaseName(node), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return publication.Node{}
	} else if err != nil {
		w.t.Fatal(err)
	}
	n, err := publication.DecodeNode(l)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// until waits for what must come.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waiting for %s: served %s, report %+v, problems %q", what, w.served.endpoints(), w.report(), w.source.Problems())
		}
	}
}

func TestWhatIsPublishedIsServedAndReported(t *testing.T) {
	w := newWorld(t)
	w.endpoints("10.0.0.1")
	version := w.publish("shop/gw", w.part("shop/gw", 6379))
	w.start("a")
	w.until("the endpoint", func() bool { return w.served.endpoints() == "10.0.0.1" })
	w.until("the report", func() bool { return w.report().Serves == version })
	if r := w.report(); r.Holder != "a" || r.Version != "test" || len(r.Failures) > 0 || r.Addresses[0] != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("report %+v", r)
	}

	w.endpoints("10.0.0.1", "10.0.0.2")
	w.until("a second endpoint", func() bool { return w.served.endpoints() == "10.0.0.1 10.0.0.2" })
	w.endpoints()
	w.until("no endpoint, and that it is told", func() bool {
		return w.served.endpoints() == "" && slices.Equal(w.source.Problems(), []string{"Service " + w.shop + "/redis has no endpoints; what comes for it is refused"})
	})

	w.until("no endpoint in the report", func() bool {
		for _, why := range w.report().Empty {
			return why == "Service "+w.shop+"/redis has no endpoints"
		}
		return false
	})
	w.endpoints("10.0.0.1")
	w.until("an endpoint again", func() bool { return len(w.report().Empty) == 0 })

	w.served.mu.Lock()
	w.served.problems["shop/gw/tcp"] = "the port is taken"
	w.served.mu.Unlock()
	w.until("a failure in the report", func() bool { return w.report().Failures["shop/gw/tcp"] == "the port is taken" })

	if err := w.client.CoreV1().Secrets(w.own).Delete(t.Context(), publication.SecretName("shop/gw"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the Gateway to be gone", func() bool { return w.served.endpoints() == "none" })
	w.end()
	w.until("the node to be draining", func() bool { return w.report().Draining })
	w.source.Close()
	if r := w.report(); r.Name != "" {
		t.Errorf("the report of a node that has ended: %+v", r)
	}
}

func TestASecretThatCannotBeReadLeavesWhatWasServed(t *testing.T) {
	w := newWorld(t)
	w.endpoints("10.0.0.1")
	w.publish("shop/gw", w.part("shop/gw", 6379))
	w.start("a")
	w.until("the endpoint", func() bool { return w.served.endpoints() == "10.0.0.1" })

	s, err := publication.Encode(w.own, "shop/gw", w.part("shop/gw", 6380))
	if err != nil {
		t.Fatal(err)
	}
	for k := range s.Data {
		s.Data[k] = []byte("{")
	}
	version := w.put(s)
	w.until("the report", func() bool { return w.report().Serves == version && w.report().Stale["shop/gw"] != "" })
	if got := w.served.applied.Listeners[0].Port; got != 6379 {
		t.Errorf("port %d is served, want the last good one", got)
	}
	w.publish("shop/gw", w.part("shop/gw", 6381))
	w.until("the good one", func() bool { return len(w.report().Stale) == 0 })
	if got := w.served.applied.Listeners[0].Port; got != 6381 {
		t.Errorf("port %d is served, want the new one", got)
	}
}

func TestOfTwoGatewaysThatClashTheNewerIsServed(t *testing.T) {
	w := newWorld(t)
	w.endpoints("10.0.0.1")
	w.publish("shop/old", w.part("shop/old", 6379))
	version := w.publish("shop/new", w.part("shop/new", 6379))
	w.start("a")
	w.until("the report", func() bool { return w.report().Serves == version })
	if got := w.report().Failures["shop/old/tcp"]; !strings.Contains(got, "port 6379 is also used by listener shop/new/tcp") {
		t.Errorf("failure %q", got)
	}
}

// The API server goes away for a while: stopped, so that connections are
// refused, and frozen, so that they hang.
func TestTheNodeServesOnWithoutAPIServer(t *testing.T) {
	w := newWorld(t)
	w.endpoints("10.0.0.1")
	w.publish("shop/gw", w.part("shop/gw", 6379))
	w.start("a")
	w.until("the endpoint", func() bool { return w.served.endpoints() == "10.0.0.1" })
	if err := api.Stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	if got := w.served.endpoints(); got != "10.0.0.1" {
		t.Errorf("without the API server %s is served", got)
	}
	if err := api.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.endpoints("10.0.0.2")
	w.until("what changed since", func() bool { return w.served.endpoints() == "10.0.0.2" })

	before := w.report()
	w.served.mu.Lock()
	w.served.problems["shop/gw/tcp"] = "the port is taken"
	w.served.mu.Unlock()
	w.until("a report after the API server came back", func() bool { return w.report().Renewed.After(before.Renewed) })
}

func TestTheYoungerOfTwoAgentsReports(t *testing.T) {
	w := newWorld(t)
	w.start("old")
	w.until("the report", func() bool { return w.report().Holder == "old" })
	old := w.served
	endOld, ended := w.stop, w.ended
	w.start("young")
	w.until("the younger one", func() bool { return w.report().Holder == "young" })
	old.mu.Lock()
	old.problems["x"] = "y"
	old.mu.Unlock()
	endOld()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ended <- nil
	if r := w.report(); r.Holder != "young" || r.Draining {
		t.Errorf("report %+v, want that of the younger one", r)
	}
}
