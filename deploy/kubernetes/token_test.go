// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A token of an agent is worth nothing for another audience, nor when its pod
// is gone.
func TestAnAgentsTokenEndsWithItsPod(t *testing.T) {
	admin := client(t, server.Config())
	pods := admin.CoreV1().Pods(namespace)
	pod, err := pods.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "agent-"},
		Spec: corev1.PodSpec{ServiceAccountName: "sluice-agent", Containers: []corev1.Container{{Name: "none", Image: "none"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := server.Config()
	config.CertData, config.KeyData = nil, nil
	read := func(audiences ...string) error {
		t.Helper()
		token, err := admin.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), "sluice-agent", &authenticationv1.TokenRequest{
			Spec: authenticationv1.TokenRequestSpec{Audiences: audiences,
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		config.BearerToken = token.Status.Token
		_, err = client(t, config).CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := read("somebody.else"); !apierrors.IsUnauthorized(err) {
		t.Errorf("with a token for somebody else: %v", err)
	}
	if err := read(); err != nil {
		t.Errorf("with its token: %v", err)
	}
	now := int64(0)
	if err := pods.Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	agent := client(t, config)
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := agent.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
		if apierrors.IsUnauthorized(err) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("with the token of a pod that is gone: %v", err)
		}
	}
}
