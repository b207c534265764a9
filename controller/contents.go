// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-gateway/sluice/controller/publication"
)

// contents are the Secrets, or the ConfigMaps, that are referred to. Of all others the
// controller knows no more than that they exist and when they changed: a
// cluster may have many thousands, and they are none of its business.
type contents[T client.Object] struct {
	kind   string
	reader client.Reader // asks the API server
	empty  func() T

	mu     sync.Mutex
	wanted map[types.NamespacedName]bool
	have   map[types.NamespacedName]T
}

// wants tells whether the last translation referred to an object.
func (c *contents[T]) wants(n types.NamespacedName) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wanted[n]
}

// refresh reads those of the objects that are new or have changed, as their
// metadata in the store tells. What cannot be read stays as it was, or is
// returned when it was never read; the error says so.
func (c *contents[T]) refresh(ctx context.Context, wanted map[types.NamespacedName]bool, metadata toolscache.Store) (unread []types.NamespacedName, err error) {
	c.mu.Lock()
	c.wanted = wanted // before the store is read, so that no change is missed
	c.mu.Unlock()
	have := make(map[types.NamespacedName]T, len(wanted))
	var mu sync.Mutex
	var problems []error
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for n := range wanted {
		m, exists, err := metadata.GetByKey(n.String())
		if err != nil || !exists {
			continue
		}
		held, ok := c.have[n]
		if ok && publication.Version(held) >= publication.Version(m.(client.Object)) && held.GetUID() == m.(client.Object).GetUID() {
			mu.Lock()
			have[n] = held
			mu.Unlock()
			continue
		}
		group.Go(func() error {
			o := c.empty()
			err := c.reader.Get(ctx, n, o)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				o.SetManagedFields(nil)
				have[n] = o
			case apierrors.IsNotFound(err):
			default:
				problems = append(problems, fmt.Errorf("read %s %s: %w", c.kind, n, err))
				if ok {
					have[n] = held
				} else {
					unread = append(unread, n)
				}
			}
			return nil
		})
	}
	_ = group.Wait() // the functions return no errors
	c.have = have
	return unread, errors.Join(problems...)
}

// all returns the objects that there are.
func (c *contents[T]) all() []T {
	out := make([]T, 0, len(c.have))
	for _, o := range c.have {
		out = append(out, o)
	}
	return out
}

func newSecrets(r client.Reader) *contents[*corev1.Secret] {
	return &contents[*corev1.Secret]{kind: secretKind, reader: r, empty: func() *corev1.Secret { return &corev1.Secret{} }}
}

func newConfigMaps(r client.Reader) *contents[*corev1.ConfigMap] {
	return &contents[*corev1.ConfigMap]{kind: configMapKind, reader: r, empty: func() *corev1.ConfigMap { return &corev1.ConfigMap{} }}
}
