// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller"
	"github.com/sluice-gateway/sluice/controller/publication"
)

// root is the administrator's client of the test that runs.
var root client.Client

// world is a namespace of users, and a GatewayClass that only they use.
type world struct {
	*testing.T
	ns, class string
	log       *buffer
	// restarted says that the API server was: it forbids everything until it has
	// read the roles.
	restarted bool

	mu   sync.Mutex
	keys [][]byte // private ones, which nobody may tell
}

// newWorld makes a world. In the end it looks whether anybody told a key.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, log: &buffer{}}
	root = admin(t)
	w.sweep()
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "shop-"}}
	c := &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "sluice-"}, Spec: gwv1.GatewayClassSpec{ControllerName: controller.ControllerName}}
	w.must(root.Create(t.Context(), n))
	w.must(root.Create(t.Context(), c))
	w.ns, w.class = n.Name, c.Name
	t.Cleanup(func() {
		ctx := context.Background()
		w.scan(ctx)
		if t.Failed() {
			t.Logf("the logs:\n%s", w.log)
		}
		if !w.restarted && strings.Contains(w.log.String(), "is forbidden") {
			t.Errorf("something may not do all that it does:\n%s", w.log)
		}
		// The next test's controller has nothing to do with all this.
		err := root.Patch(ctx, c, client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`)))
		if err := errors.Join(err, root.Delete(ctx, c)); err != nil {
			t.Error(err)
		}
	})
	return w
}

// sweep removes what other tests published.
func (w *world) sweep() {
	w.Helper()
	for _, o := range []client.Object{&corev1.Secret{}, &coordinationv1.Lease{}} {
		w.must(root.DeleteAllOf(w.Context(), o, client.InNamespace(system)))
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// apply applies YAML in which NS and CLASS stand for the world's.
func (w *world) apply(documents string) {
	w.Helper()
	w.must(server.Apply(w.Context(), []byte(strings.NewReplacer("NS", w.ns, "CLASS", w.class).Replace(documents))))
}

// patience is how long anything may take that has to come. The informers of
// client-go alone wait for up to a minute after an API server was away.
const patience = 3 * time.Minute

// until waits for what has to come: that lacks returns "".
func (w *world) until(what string, lacks func() string) {
	w.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		missing := lacks()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("waiting for %s: %s", what, missing)
		}
	}
}

// get reads an object of the world's namespace.
func get[T client.Object](w *world, name string, o T) T {
	w.Helper()
	w.must(root.Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, o))
	return o
}

// part is the Secret that publishes a Gateway of the world, nil for none.
func (w *world) part(gateway string) *corev1.Secret {
	w.Helper()
	s := &corev1.Secret{}
	err := root.Get(w.Context(), client.ObjectKey{Namespace: system, Name: publication.SecretName(w.ns + "/" + gateway)}, s)
	if client.IgnoreNotFound(err) != nil {
		w.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return s
}

// logger logs into the buffer, which is shown when the test fails. What
// controller-runtime says on its own it may say after the test.
func (w *world) logger(of string) *slog.Logger {
	return slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("of", of)
}
