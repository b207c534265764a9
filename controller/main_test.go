// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/bench/leak"
	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

// system is Sluice's namespace, as deploy/kubernetes has it.
const system = "sluice-system"

var server *apiserver.Server

func TestMain(m *testing.M) {
	os.Exit(leak.Of(func() (code int) {
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
		for _, file := range []string{"namespace.yaml", "controller.yaml", "services.yaml", "agent.yaml", "agent-lease.yaml"} {
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
	}, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"),
		// A watch of metadata that is stopped with an event on its way hangs
		// (newGVKFixupWatcher of controller-runtime).
		goleak.IgnoreTopFunction("k8s.io/apimachinery/pkg/watch.(*filteredWatch).loop")).Run())
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
