// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

// watch keeps copies of the objects of all kinds that the API server has. CRDs
// may be missing, come later and go.
type watch struct {
	cache cache.Cache
	log   *slog.Logger
	// event is told of every change; old is nil for a new object, now for one
	// that is gone.
	event func(k *kind, old, now client.Object)
	// changed is told that a kind came or went.
	changed func()

	wake chan struct{} // has a token after a CRD changed

	mu       sync.Mutex
	kinds    []*watched
	complete bool // all kinds that there are have been read once
	bare     bool // the log has said that there is no Gateway API
}

// installGatewayAPI installs what is missing; it is for people, who may choose
// another v1.6 or the experimental channel.
const installGatewayAPI = "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.3/standard-install.yaml"

// watched is a kind with its informers.
type watched struct {
	kind
	// current has been read; next is being read and takes its place then.
	current, next *informer
	failing       string // why there is none
}

type informer struct {
	toolscache.SharedIndexInformer
	version int // index into kind.versions
	// told has synced when watch.event was told of all that there was: the store is
	// complete before.
	told toolscache.ResourceEventHandlerRegistration
}

func newWatch(c cache.Cache, log *slog.Logger) *watch {
	w := &watch{cache: c, log: log, wake: make(chan struct{}, 1)}
	for _, k := range kinds() {
		w.kinds = append(w.kinds, &watched{kind: k})
	}
	return w
}

// poll is how often something that is expected is looked for.
const poll = 50 * time.Millisecond

// Start watches until ctx ends.
func (w *watch) Start(ctx context.Context) error {
	told := time.Now()
	for {
		waiting := w.update(ctx)
		if len(waiting) > 0 && time.Since(told) > 10*time.Second {
			w.log.Warn("waiting for the API server to tell of objects", "kinds", strings.Join(waiting, ", "))
			told = time.Now()
		}
		var again <-chan time.Time
		if len(waiting) > 0 {
			again = time.After(poll)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		case <-again:
		}
	}
}

// NeedLeaderElection says that every replica watches.
func (w *watch) NeedLeaderElection() bool { return false }

// update brings the informers in line with the CRDs. It returns the kinds that
// are not read yet.
func (w *watch) update(ctx context.Context) (waiting []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	definitions, known := w.definitions()
	if bare := known && definitions[gatewayCRD] == nil; bare != w.bare {
		if w.bare = bare; bare {
			w.log.Warn("the cluster has no CRDs of the Gateway API, so there is nothing to serve; what installs them is the cure", "cure", installGatewayAPI)
		}
	}
	news := false
	for _, k := range w.kinds {
		want := 0
		if k.crd != "" {
			if !known {
				waiting = append(waiting, k.name)
				continue
			}
			want = k.served(definitions[k.crd])
		}
		news = w.bring(ctx, k, want) || news
		if want >= 0 && k.current == nil || k.next != nil {
			waiting = append(waiting, k.name)
		}
	}
	if known && len(waiting) == 0 && !w.complete {
		w.complete, news = true, true
	}
	if news && w.complete {
		w.changed()
	}
	return waiting
}

// bring makes k watch a version, none for -1. It tells whether that changed
// what there is to read.
func (w *watch) bring(ctx context.Context, k *watched, want int) (news bool) {
	if k.next != nil && k.next.version != want {
		w.stop(ctx, k, &k.next)
	}
	have := -1
	if k.current != nil {
		have = k.current.version
	}
	switch {
	case want < 0 && k.current != nil:
		w.log.Info("kind is no longer served by the API server", "kind", k.name)
		w.stop(ctx, k, &k.current)
		return true
	case want >= 0 && want != have && k.next == nil:
		w.start(ctx, k, want)
	}
	if k.next != nil && k.next.told.HasSynced() {
		if k.current != nil {
			w.stop(ctx, k, &k.current)
		}
		k.current, k.next = k.next, nil
		w.log.Debug("kind is watched", "kind", k.name)
		return true
	}
	return false
}

func (w *watch) start(ctx context.Context, k *watched, version int) {
	i, err := w.cache.GetInformer(ctx, k.versions[version], cache.BlockUntilSynced(false))
	if err != nil {
		// The API server is away, or has not made the resource of the CRD yet.
		if k.failing != err.Error() {
			w.log.Debug("kind cannot be watched yet", "kind", k.name, "error", err)
		}
		k.failing = err.Error()
		return
	}
	told, err := i.AddEventHandler(w.handler(&k.kind))
	if err != nil {
		return // the manager ends
	}
	k.failing = ""
	// The store is read as it is, for a copy of all objects at every change
	// would cost more than all else. The cache of one namespace or of all has
	// informers of client-go.
	k.next = &informer{i.(toolscache.SharedIndexInformer), version, told}
}

func (w *watch) stop(ctx context.Context, k *watched, i **informer) {
	if err := w.cache.RemoveInformer(ctx, k.versions[(*i).version]); err != nil {
		w.log.Error("cannot stop to watch", "kind", k.name, "error", err)
	}
	*i = nil
}

func (w *watch) handler(k *kind) toolscache.ResourceEventHandler {
	tell := func(old, now client.Object) {
		if k.name == definitionKind {
			token(w.wake)
			return
		}
		w.event(k, old, now)
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { tell(nil, o.(client.Object)) },
		UpdateFunc: func(old, now any) {
			if o, n := old.(client.Object), now.(client.Object); !sameButVersion(o, n) {
				tell(o, n)
			}
		},
		DeleteFunc: func(o any) {
			if unknown, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = unknown.Obj
			}
			tell(o.(client.Object), nil)
		},
	}
}

// definitions are the CRDs by name; known tells that they have been read.
func (w *watch) definitions() (all map[string]*apiextensionsv1.CustomResourceDefinition, known bool) {
	for _, k := range w.kinds {
		if k.name != definitionKind || k.current == nil {
			continue
		}
		all = map[string]*apiextensionsv1.CustomResourceDefinition{}
		for _, o := range k.current.GetStore().List() {
			d := o.(*apiextensionsv1.CustomResourceDefinition)
			all[d.Name] = d
		}
		return all, true
	}
	return nil, false
}

// served returns the index of the best version that a CRD serves, -1 for none.
func (k *kind) served(d *apiextensionsv1.CustomResourceDefinition) int {
	if d == nil || !slices.ContainsFunc(d.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
		return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
	}) {
		return -1
	}
	return slices.IndexFunc(k.versions, func(o client.Object) bool {
		gvk, err := apiutil.GVKForObject(o, scheme)
		return err == nil && slices.ContainsFunc(d.Spec.Versions, func(v apiextensionsv1.CustomResourceDefinitionVersion) bool {
			return v.Served && v.Name == gvk.Version
		})
	})
}

// isComplete tells whether everything that there was at the start is known.
func (w *watch) isComplete() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.complete
}

// bundleVersion is the version of the Gateway API's CRDs, "" for none.
func (w *watch) bundleVersion() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	definitions, _ := w.definitions()
	if d := definitions[gatewayCRD]; d != nil {
		return d.Annotations["gateway.networking.k8s.io/bundle-version"]
	}
	return ""
}

// store is where the objects of a kind are, nil where there are none.
func (w *watch) store(name string) toolscache.Store {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.kinds {
		if k.name == name && k.current != nil {
			return k.current.GetStore()
		}
	}
	return nil
}

// version returns the version of a kind that is watched.
func (w *watch) version(name string) client.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.kinds {
		if k.name == name && k.current != nil {
			return k.versions[k.current.version]
		}
	}
	return nil
}

// token puts a token into a channel that holds one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
