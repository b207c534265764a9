// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/util/connrotation"

	"github.com/sluice-gateway/sluice/controller/publication"
)

const (
	// lasts is how long a report holds, lastsHolding where nodes share addresses,
	// which must move soon when one dies. It is renewed three times as often.
	lasts        = 30 * time.Second
	lastsHolding = 3 * time.Second
	// answer bounds one request.
	answer = 2 * time.Second
)

// lease keeps the node's Lease in line with what there is to tell, and renews it.
// Whoever has something to tell does not wait for the API server.
type lease struct {
	client      coordinationclient.LeaseInterface
	connections *connrotation.Dialer // of client
	namespace   string
	log         *slog.Logger
	news        chan struct{} // has a token when there is something new to tell
	back        chan struct{} // has one when that succeeds again

	mu     sync.Mutex
	wanted *publication.Node // nil until there is anything to tell
	told   publication.Node  // as the API server took it last
	gone   bool              // a younger process speaks for this node

	writing sync.Mutex
	written *coordinationv1.Lease // as the API server has it
	failing bool
}

func newLease(client coordinationclient.LeaseInterface, connections *connrotation.Dialer, namespace string, log *slog.Logger) *lease {
	return &lease{client: client, connections: connections, namespace: namespace, log: log, news: make(chan struct{}, 1), back: make(chan struct{}, 1)}
}

// tell makes n what there is to tell.
func (l *lease) tell(n publication.Node) {
	l.mu.Lock()
	fresh := l.wanted == nil || !same(*l.wanted, n)
	l.wanted = &n
	l.mu.Unlock()
	if fresh {
		token(l.news)
	}
}

// redial makes the next request go over a new connection, and soon.
func (l *lease) redial() {
	l.connections.CloseAll()
	token(l.news)
}

// run tells it until ctx ends.
func (l *lease) run(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.news:
		case <-tick.C:
		}
		l.write(ctx)
	}
}

// write reports what there is to tell, unless that was done a moment ago. What
// fails is tried again with the next call.
func (l *lease) write(ctx context.Context) {
	l.writing.Lock()
	defer l.writing.Unlock()
	now := time.Now()
	l.mu.Lock()
	n, last, gone := l.wanted, l.told, l.gone
	l.mu.Unlock()
	if n == nil || gone || l.written != nil && same(last, *n) && now.Sub(last.Renewed) < n.Lasts/3 {
		return
	}
	next := *n
	next.Renewed = now
	o, err := publication.EncodeNode(l.namespace, next)
	if err == nil {
		err = l.put(ctx, o, last.Holder)
	}
	if _, answered := errors.AsType[*apierrors.StatusError](err); err != nil && !answered {
		l.connections.CloseAll() // one may be dead, and would be for some time
	}
	switch {
	case err != nil && !l.failing:
		l.log.Warn("cannot report to the controller; what is served goes on", "lease", l.namespace+"/"+publication.LeaseName(next.Name), "error", err)
	case err == nil && l.failing:
		l.log.Info("reporting to the controller again")
	}
	if err == nil {
		l.mu.Lock()
		l.told = next
		l.mu.Unlock()
		if l.failing {
			token(l.back)
		}
	}
	l.failing = err != nil
}

// same tells whether two reports say the same.
func same(a, b publication.Node) bool {
	a.Renewed = b.Renewed
	return reflect.DeepEqual(a, b)
}

// renewed is when the API server last took a report.
func (l *lease) renewed() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told.Renewed
}

// superseded tells whether a younger process speaks for this node.
func (l *lease) superseded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone
}

// leave leaves the Lease to another process: nothing is written any more.
func (l *lease) leave() {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = true
}

// remove deletes the Lease, after run, unless somebody else has written it since.
func (l *lease) remove(ctx context.Context) {
	if l.written == nil {
		return
	}
	version := l.written.ResourceVersion
	err := l.client.Delete(ctx, l.written.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		l.log.Warn("cannot delete the node's Lease; it expires", "lease", l.written.Name, "error", err)
	}
}

// put writes o. holder is who wrote it last, "" if this process did not yet.
func (l *lease) put(ctx context.Context, o *coordinationv1.Lease, holder string) error {
	// What was begun ends, so that it is known which version there is to remove.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answer)
	defer cancel()
	if l.written == nil {
		created, err := l.client.Create(ctx, o, metav1.CreateOptions{})
		if err == nil {
			l.written = created
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		if l.written, err = l.client.Get(ctx, o.Name, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	o.ResourceVersion = l.written.ResourceVersion
	updated, err := l.client.Update(ctx, o, metav1.UpdateOptions{})
	switch {
	case err == nil:
		l.written = updated
		return nil
	case apierrors.IsNotFound(err):
		l.written = nil
		return err
	case !apierrors.IsConflict(err):
		return err
	}
	have, getErr := l.client.Get(ctx, o.Name, metav1.GetOptions{})
	if getErr != nil {
		return getErr
	}
	// Whoever wrote between two of our own writes started after us: one agent
	// makes room for the next, and has nothing to say any more.
	if holder != "" && have.Spec.HolderIdentity != nil && *have.Spec.HolderIdentity != *o.Spec.HolderIdentity {
		l.mu.Lock()
		l.gone = true
		l.mu.Unlock()
		l.log.Info("another agent reports for this node now", "holder", *have.Spec.HolderIdentity)
		return nil
	}
	l.written = have
	o.ResourceVersion = have.ResourceVersion
	if updated, err = l.client.Update(ctx, o, metav1.UpdateOptions{}); err == nil {
		l.written = updated
	}
	return err
}
