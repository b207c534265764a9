// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// electionLease is the Lease that says which replica leads.
const electionLease = "sluice-controller"

// election runs a function while this replica leads. Whoever loses the Lease,
// because the API server is away, stops to write and stands again: the copies
// of all objects stay, and no process has to start anew.
type election struct {
	config    *rest.Config
	namespace string
	identity  string
	lead      func(ctx context.Context) // returns when ctx ends
	metrics   *metrics
}

const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
)

// Start stands for election until ctx ends.
func (e *election) Start(ctx context.Context) error {
	config := rest.CopyConfig(e.config)
	config.Timeout = renewDeadline / 2
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client for the election: %w", err)
	}
	for ctx.Err() == nil {
		if err := e.term(ctx, client); err != nil {
			return err
		}
	}
	return nil
}

// NeedLeaderElection says that every replica stands.
func (e *election) NeedLeaderElection() bool { return false }

// term stands once, and returns when the Lease is lost or ctx ends. It gives
// the Lease back after the last write.
func (e *election) term(ctx context.Context, client kubernetes.Interface) error {
	leading := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name: electionLease,
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: e.namespace, Name: electionLease},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.identity},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: heartbeat,
		// Not ReleaseOnCancel: who could not renew would release what another
		// one has acquired since (LeaderElector.tryRelease of client-go 0.37).
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(c context.Context) { leading <- c },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("election: %w", err)
	}
	standing, resign := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(standing)
	}()
	select {
	case <-ctx.Done():
	case term := <-leading:
		term, stop := context.WithCancel(term)
		context.AfterFunc(ctx, stop)
		e.metrics.leader.Set(1)
		e.lead(term)
		e.metrics.leader.Set(0)
		stop()
	}
	resign()
	<-ended
	if ctx.Err() != nil {
		e.release(client)
	}
	return nil
}

// release gives the Lease back if this replica has it. Where that fails others
// wait until it has expired.
func (e *election) release(client kubernetes.Interface) {
	ctx, cancel := context.WithTimeout(context.Background(), renewDeadline/2)
	defer cancel()
	leases := client.CoordinationV1().Leases(e.namespace)
	l, err := leases.Get(ctx, electionLease, metav1.GetOptions{})
	if err != nil || l.Spec.HolderIdentity == nil || *l.Spec.HolderIdentity != e.identity {
		return
	}
	nobody, second, now := "", int32(1), metav1.NowMicro()
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds, l.Spec.RenewTime = &nobody, &second, &now
	_, _ = leases.Update(ctx, l, metav1.UpdateOptions{}) // fails when another one was faster
}
