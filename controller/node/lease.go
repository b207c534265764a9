// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"log/slog"
	"reflect"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"

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

// lease writes the node's Lease when there is something new to tell, and every
// now and then.
type lease struct {
	client coordinationclient.LeaseInterface
	log    *slog.Logger

	last    publication.Node
	written *coordinationv1.Lease // as the API server has it
	failing bool
	// superseded says that a younger process speaks for this node.
	superseded bool
}

// write reports n, unless that was done a moment ago. What fails is tried
// again with the next call.
func (l *lease) write(ctx context.Context, namespace string, n publication.Node) {
	now := time.Now()
	if l.superseded || l.written != nil && same(l.last, n) && now.Sub(l.last.Renewed) < n.Lasts/3 {
		return
	}
	n.Renewed = now
	o, err := publication.EncodeNode(namespace, n)
	if err == nil {
		err = l.put(ctx, o)
	}
	switch {
	case err != nil && !l.failing:
		l.log.Warn("cannot report to the controller; what is served goes on", "lease", namespace+"/"+publication.LeaseName(n.Name), "error", err)
	case err == nil && l.failing:
		l.log.Info("reporting to the controller again")
	}
	l.failing = err != nil
	if err == nil {
		l.last = n
	}
}

// same tells whether two reports say the same.
func same(a, b publication.Node) bool {
	a.Renewed = b.Renewed
	return reflect.DeepEqual(a, b)
}

// renewed is when the API server last took a report.
func (l *lease) renewed() time.Time { return l.last.Renewed }

// remove deletes the Lease unless somebody else has written it since.
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

func (l *lease) put(ctx context.Context, o *coordinationv1.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
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
	if l.last.Holder != "" && have.Spec.HolderIdentity != nil && *have.Spec.HolderIdentity != *o.Spec.HolderIdentity {
		l.superseded = true
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
