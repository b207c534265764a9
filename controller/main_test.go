// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller"
	"github.com/sluice-gateway/sluice/controller/node"
	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

// system is Sluice's namespace, as deploy/kubernetes has it.
const system = "sluice-system"

var server *apiserver.Server

func TestMain(m *testing.M) {
	os.Exit(func() (code int) {
		var err error
		if server, err = apiserver.Start(context.Background(), apiserver.Options{}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() {
			if err := server.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}()
		for _, file := range []string{"namespace.yaml", "controller.yaml", "services.yaml", "agent.yaml", "agent-lease.yaml", "gatewayclass.yaml"} {
			text, err := os.ReadFile(filepath.Join("..", "deploy", "kubernetes", file))
			if err == nil {
				err = server.Apply(context.Background(), text)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		// The API server learns of roles through its own watch, which a restart
		// does not have to wait for.
		if err := errors.Join(server.Stop(), server.Restart(context.Background())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// admin is a client that may do everything.
func admin(t *testing.T) client.Client {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gwv1.Install, apiextensionsv1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(server.Config(), client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cluster is one test's use of the API server.
type cluster struct {
	client.Client
	t         *testing.T
	namespace string
	key       []byte // private, in PEM
}

// newCluster makes a namespace. At the end of the test everything that
// controllers look at is deleted.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Client: admin(t), t: t}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	c.must(c.Create(t.Context(), ns))
	c.namespace = ns.Name
	t.Cleanup(func() {
		ctx := context.Background()
		for _, o := range []client.Object{&gwv1.Gateway{}, &gwv1.TCPRoute{}, &gwv1.TLSRoute{}, &gwv1.HTTPRoute{}, &gwv1.BackendTLSPolicy{}} {
			if err := c.DeleteAllOf(ctx, o, client.InNamespace(c.namespace)); err != nil && !meta.IsNoMatchError(err) {
				t.Error(err)
			}
		}
		for _, o := range []client.Object{&corev1.Secret{}, &coordinationv1.Lease{}} {
			if err := c.DeleteAllOf(ctx, o, client.InNamespace(system)); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// apply applies YAML; NS stands for the test's namespace.
func (c *cluster) apply(documents string) {
	c.t.Helper()
	c.must(server.Apply(c.t.Context(), []byte(strings.ReplaceAll(documents, "NS", c.namespace))))
}

// secret writes a certificate for a name into a Secret, and returns the chain.
func (c *cluster) secret(name, hostname string) []byte {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: hostname}, DNSNames: []string{hostname},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	c.must(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	c.must(err)
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	c.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	c.put(name, chain, c.key)
	return chain
}

// put writes a Secret.
func (c *cluster) put(name string, chain, key []byte) {
	c.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: name}, Type: corev1.SecretTypeTLS}
	have := s.DeepCopy()
	data := map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key}
	if c.Get(c.t.Context(), client.ObjectKeyFromObject(s), have) == nil {
		have.Data = data
		c.must(c.Update(c.t.Context(), have))
		return
	}
	s.Data = data
	c.must(c.Create(c.t.Context(), s))
}

// eventually waits until check has nothing to complain of.
func (c *cluster) eventually(what string, check func() string) {
	c.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %s", what, problem)
		}
	}
}

// replica is a controller that runs, with the rights of deploy/kubernetes.
type replica struct {
	log  *buffer
	stop func()
}

func (c *cluster) replica(identity string) *replica {
	c.t.Helper()
	config, err := server.ServiceAccount(c.t.Context(), system, "sluice-controller")
	c.must(err)
	r := &replica{log: &buffer{}}
	ctl, err := controller.New(controller.Options{Config: config, Namespace: system, Identity: identity,
		Log: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	c.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ctl.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("controller %s: %v", identity, err)
		}
	})
	c.t.Cleanup(func() {
		r.stop()
		text := r.log.String()
		if c.t.Failed() {
			c.t.Logf("log of %s:\n%s", identity, text)
		}
		if strings.Contains(text, "forbidden") {
			c.t.Errorf("controller %s may not do all that it does:\n%s", identity, text)
		}
		for line := range strings.Lines(string(c.key)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "-----") && line != "" && strings.Contains(text, line) {
				c.t.Error("the log has a private key")
			}
		}
	})
	return r
}

// buffer is a log.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// served is what a node serves: everything, and it says so.
type served struct {
	mu       sync.Mutex
	snapshot *config.Snapshot
	problems map[string]string // by listener
}

func (s *served) Apply(n *config.Snapshot) config.Report {
	s.mu.Lock()
	s.snapshot = n
	s.mu.Unlock()
	return s.Report()
}

func (s *served) Report() config.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := config.Report{Listeners: map[string]string{}}
	if s.snapshot != nil {
		for _, l := range s.snapshot.Listeners {
			out.Listeners[l.Name] = s.problems[l.Name]
		}
	}
	return out
}

// chain is that of the first certificate, "" without one.
func (s *served) chain() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot == nil || len(s.snapshot.Certificates) == 0 {
		return ""
	}
	return string(s.snapshot.Certificates[0].Chain)
}

// node runs the agent's side of a node, without sockets.
func (c *cluster) node(name string, addresses ...string) (of *served, stop func()) {
	c.t.Helper()
	of = &served{}
	src, err := node.New(node.Options{Config: server.Config(), Namespace: system, Node: name, Identity: name, Addresses: parseAddresses(c.t, addresses), Log: slog.New(slog.DiscardHandler)})
	c.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx, of) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("node %s: %v", name, err)
		}
		src.Close() // else it would say for ever that it is draining
	})
	c.t.Cleanup(stop)
	return of, stop
}
