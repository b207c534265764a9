// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-gateway/sluice/controller/publication"
)

func TestAnAgentWritesTheLeaseOfItsOwnNodeOnly(t *testing.T) {
	config, err := server.Pod(t.Context(), namespace, "sluice-agent", "n1")
	if err != nil {
		t.Fatal(err)
	}
	agent := client(t, config).CoordinationV1().Leases(namespace)
	admin := client(t, server.Config()).CoordinationV1().Leases(namespace)
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	own, other, election := publication.LeaseName("n1"), publication.LeaseName("n2"), "sluice-controller"
	for _, name := range []string{other, election} {
		if _, err := admin.Create(t.Context(), lease(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	// The policy takes effect when the API server has noticed it, which shows
	// by the first refusal.
	refused := func(what string, err error) error {
		if apierrors.IsForbidden(err) {
			return nil
		}
		return fmt.Errorf("%s: error %v, want that it is forbidden", what, err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := agent.Create(t.Context(), lease(publication.LeaseName("n3")), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err := refused("create the Lease of another node", err); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	for _, name := range []string{other, election} {
		o, err := admin.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		me := "me"
		o.Spec.HolderIdentity = &me
		_, err = agent.Update(t.Context(), o, metav1.UpdateOptions{})
		if err := refused("update Lease "+name, err); err != nil {
			t.Error(err)
		}
		if err := refused("delete Lease "+name, agent.Delete(t.Context(), name, metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	}

	o, err := agent.Create(t.Context(), lease(own), metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create the Lease of its node: %v", err)
	}
	if _, err := agent.Update(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Errorf("update the Lease of its node: %v", err)
	}
	if err := agent.Delete(t.Context(), own, metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete the Lease of its node: %v", err)
	}

	// A token that no pod is bound to speaks for no node.
	unbound, err := server.ServiceAccount(t.Context(), namespace, "sluice-agent")
	if err != nil {
		t.Fatal(err)
	}
	_, err = client(t, unbound).CoordinationV1().Leases(namespace).Create(t.Context(), lease(own), metav1.CreateOptions{})
	if err := refused("create a Lease without a node", err); err != nil {
		t.Error(err)
	}
}
