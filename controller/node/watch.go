// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/sluice-gateway/sluice/controller/publication"
)

// slicesFunc returns the EndpointSlices of a Service.
type slicesFunc func(namespace, service string) []*discoveryv1.EndpointSlice

// watch keeps copies of what the API server has.
type watch struct {
	parts, nodes cache.SharedIndexInformer // of Sluice's namespace
	slice        cache.SharedIndexInformer // of every namespace
	always       []informers.SharedInformerFactory
	atNeed       informers.SharedInformerFactory
	// watchNodes watches the Leases of all nodes from its first call on, and
	// tells whether they are known. Each node hears of every renewal of every
	// other: that is worth it only where nodes share addresses.
	watchNodes func() (known bool)
	// changed has a token after a change that was not looked at yet.
	changed chan struct{}
}

const (
	byService    = "service"
	partSelector = publication.ComponentLabel + "=" + publication.PartComponent
	nodeSelector = publication.ComponentLabel + "=" + publication.NodeComponent
)

func newWatch(client kubernetes.Interface, namespace string) *watch {
	w := &watch{changed: make(chan struct{}, 1)}
	factory := func(namespace, selector string) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
			informers.WithTransform(slim), informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector }))
	}
	own, all := factory(namespace, partSelector), factory(metav1.NamespaceAll, "")
	w.always, w.atNeed = []informers.SharedInformerFactory{own, all}, factory(namespace, nodeSelector)
	w.parts = own.Core().V1().Secrets().Informer()
	w.slice = all.Discovery().V1().EndpointSlices().Informer()
	w.nodes = w.atNeed.Coordination().V1().Leases().Informer()
	_ = w.slice.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) {
		s := o.(*discoveryv1.EndpointSlice)
		return []string{s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]}, nil
	}}) // fails only after the start
	for _, i := range []cache.SharedIndexInformer{w.parts, w.slice} {
		_, _ = i.AddEventHandler(cache.ResourceEventHandlerFuncs{ // fails only after the stop
			AddFunc: func(any) { w.note() },
			UpdateFunc: func(old, now any) {
				if old.(metav1.Object).GetResourceVersion() != now.(metav1.Object).GetResourceVersion() {
					w.note()
				}
			},
			DeleteFunc: func(any) { w.note() },
		})
	}
	return w
}

// slim leaves out what takes memory and nobody reads.
func slim(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}

func (w *watch) note() { token(w.changed) }

// drain takes the token: whatever happened until now is looked at next.
func (w *watch) drain() {
	select {
	case <-w.changed:
	default:
	}
}

// start watches until ctx ends; the returned function waits for that.
func (w *watch) start(ctx context.Context) (stopped func()) {
	ctx, cancel := context.WithCancel(ctx)
	for _, f := range w.always {
		f.StartWithContext(ctx)
	}
	w.watchNodes = func() bool {
		w.atNeed.StartWithContext(ctx) // once
		return w.nodes.HasSynced()
	}
	return func() {
		cancel()
		for _, f := range append(w.always, w.atNeed) {
			f.Shutdown()
		}
	}
}

// wait waits until everything that there was at the start is known. It tells
// whether that came before ctx ended.
func (w *watch) wait(ctx context.Context, log *slog.Logger) bool {
	told := time.AfterFunc(5*time.Second, func() {
		log.Warn("waiting for the API server; nothing is served until it tells what is published")
	})
	defer told.Stop()
	return cache.WaitForCacheSync(ctx.Done(), w.parts.HasSynced, w.slice.HasSynced)
}

func (w *watch) secrets() []*corev1.Secret {
	var out []*corev1.Secret
	for _, o := range w.parts.GetStore().List() {
		if s := o.(*corev1.Secret); publication.GatewayOf(s) != "" {
			out = append(out, s)
		}
	}
	return out
}

func (w *watch) leases() []*coordinationv1.Lease {
	var out []*coordinationv1.Lease
	for _, o := range w.nodes.GetStore().List() {
		out = append(out, o.(*coordinationv1.Lease))
	}
	return out
}

func (w *watch) slices(namespace, service string) []*discoveryv1.EndpointSlice {
	found, err := w.slice.GetIndexer().ByIndex(byService, namespace+"/"+service)
	if err != nil {
		panic("node: the index is made with the watch: " + err.Error())
	}
	out := make([]*discoveryv1.EndpointSlice, 0, len(found))
	for _, o := range found {
		out = append(out, o.(*discoveryv1.EndpointSlice))
	}
	return out
}
