// SPDX-License-Identifier: Apache-2.0

package controller_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/controller"
	"github.com/sluice-gateway/sluice/controller/publication"
	"github.com/sluice-gateway/sluice/controller/translate"
	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

// TestCAsOfConfigMapsAreFollowed takes a ConfigMap with CA certificates away,
// brings it back and breaks it, with a real API server.
func TestCAsOfConfigMapsAreFollowed(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	api, err := apiserver.Start(ctx, apiserver.Options{})
	must(err)
	t.Cleanup(func() {
		if err := api.Close(); err != nil {
			t.Error(err)
		}
	})
	types := runtime.NewScheme()
	must(scheme.AddToScheme(types))
	must(gwv1.Install(types))
	c, err := client.New(api.Config(), client.Options{Scheme: types})
	must(err)
	must(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "sluice"}}))
	a, err := txtar.ParseFile("translate/testdata/clients-of-HTTPS-show-a-certificate-of-the-CAs-in-a-ConfigMap.txtar")
	must(err)
	for _, f := range a.Files {
		if f.Name == "objects.yaml" {
			text := strings.ReplaceAll(string(f.Data), ", namespace: default}", "}")
			must(api.Apply(ctx, []byte(strings.ReplaceAll(text, "metadata: {", "metadata: {namespace: default, "))))
		}
	}
	must(c.Create(ctx, &gwv1.GatewayClass{ObjectMeta: metav1.ObjectMeta{Name: "sluice"}, Spec: gwv1.GatewayClassSpec{ControllerName: controller.ControllerName}}))

	replica, err := controller.New(controller.Options{Config: api.Config(), Namespace: "sluice", Identity: "test", Log: slog.New(slog.DiscardHandler)})
	must(err)
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- replica.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	// accepted waits until the listener has a reason for Accepted and its part
	// so many CAs.
	accepted := func(step, want string, authorities int) {
		t.Helper()
		var got string
		var have int
		for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			got, have = "", -1
			var g gwv1.Gateway
			must(c.Get(ctx, client.ObjectKey{Namespace: "default", Name: "gw"}, &g))
			for _, l := range g.Status.Listeners {
				for _, condition := range l.Conditions {
					if l.Name == "https" && condition.Type == "Accepted" {
						got = condition.Reason
					}
				}
			}
			var s corev1.Secret
			if err := c.Get(ctx, client.ObjectKey{Namespace: "sluice", Name: publication.SecretName("default/gw")}, &s); err == nil {
				part, err := publication.Decode(&s)
				must(err)
				have = len(part.Authorities)
			}
			if got == want && have == authorities {
				return
			}
		}
		t.Fatalf("%s: Accepted is %q with %d CAs published, want %s with %d", step, got, have, want, authorities)
	}
	accepted("at first", "Accepted", 2)
	people := &corev1.ConfigMap{}
	must(c.Get(ctx, client.ObjectKey{Namespace: "default", Name: "people"}, people))
	must(c.Delete(ctx, people))
	accepted("without the ConfigMap", "NoValidCACertificate", 1)
	again := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "people"}, Data: people.Data}
	must(c.Create(ctx, again))
	accepted("with the ConfigMap again", "Accepted", 2)
	again.Data = map[string]string{translate.AuthorityKey: ""}
	must(c.Update(ctx, again))
	accepted("with an empty ConfigMap", "NoValidCACertificate", 1)
	again.Data = people.Data
	must(c.Update(ctx, again))
	accepted("with the ConfigMap mended", "Accepted", 2)
}
