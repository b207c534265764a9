// SPDX-License-Identifier: Apache-2.0

// Package kubernetes tests the manifests of this folder on an API server.
package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/sluice-gateway/sluice/deploy/apiserver"
)

const namespace = "sluice-system"

var server *apiserver.Server

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	var err error
	if server, err = apiserver.Start(context.Background(), apiserver.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	if err := install(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func install() error {
	if err := apply(context.Background()); err != nil {
		return err
	}
	err := server.Apply(context.Background(), []byte("{apiVersion: v1, kind: ServiceAccount, metadata: {name: nobody, namespace: "+namespace+"}}"))
	if err != nil {
		return err
	}
	// The API server learns of roles through its own watch, which a restart
	// does not have to wait for.
	return errors.Join(server.Stop(), server.Restart(context.Background()))
}

// apply applies what kustomization.yaml lists, in its order.
func apply(ctx context.Context) error {
	text, err := os.ReadFile("kustomization.yaml")
	if err != nil {
		return err
	}
	var list struct{ Resources []string }
	if err := yaml.Unmarshal(text, &list); err != nil {
		return err
	}
	for _, file := range list.Resources {
		if file == "../crds" {
			continue // the server has them
		}
		documents, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := server.Apply(ctx, documents); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

// Whoever refers to a GatewayConfig in the class goes on doing so when Sluice is
// installed again, by the same client.
func TestInstallingAgainLeavesTheClassAsItIs(t *testing.T) {
	text, err := os.ReadFile("gatewayclass.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var class gwv1.GatewayClass
	if err := yaml.Unmarshal(text, &class); err != nil {
		t.Fatal(err)
	}
	if err := server.Apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	const ref = "\n  parametersRef: {group: sluice.dev, kind: GatewayConfig, name: own, namespace: " + namespace + "}\n"
	if err := server.Apply(t.Context(), append(bytes.TrimSpace(text), ref...)); err != nil {
		t.Fatal(err)
	}
	if err := apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	o, err := dynamic.NewForConfigOrDie(server.Config()).Resource(schema.GroupVersionResource{Group: gwv1.GroupName, Version: "v1", Resource: "gatewayclasses"}).Get(t.Context(), class.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if name, _, _ := unstructured.NestedString(o.Object, "spec", "parametersRef", "name"); name != "own" {
		t.Errorf("spec %v, want it to refer to GatewayConfig own", o.Object["spec"])
	}
}

// An API server takes what the chart gives with its options, but for the
// ServiceMonitor, whose CRD is the Prometheus operator's.
func TestAnAPIServerTakesTheOptionsOfTheChart(t *testing.T) {
	t.Cleanup(func() {
		if err := apply(context.Background()); err != nil { // for other tests
			t.Error(err)
		}
	})
	for _, name := range []string{"options", "little"} {
		text, err := os.ReadFile("../helm/testdata/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		var documents [][]byte
		for d := range bytes.SplitSeq(append([]byte("\n"), text...), []byte("\n---")) {
			if !bytes.Contains(d, []byte("\nkind: ServiceMonitor\n")) {
				documents = append(documents, d)
			}
		}
		if err := server.Apply(t.Context(), bytes.Join(documents, []byte("\n---"))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rules lists what a ServiceAccount of ours may do in a namespace, and not
// every other ServiceAccount: one line per group and resource.
func rules(t *testing.T, account, in string) []string {
	t.Helper()
	common := allRules(t, "nobody", in)
	return slices.DeleteFunc(allRules(t, account, in), func(line string) bool { return slices.Contains(common, line) })
}

func allRules(t *testing.T, account, in string) []string {
	t.Helper()
	config, err := server.ServiceAccount(t.Context(), namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: in}}
	review, err = client(t, config).AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if review.Status.Incomplete {
		t.Fatalf("the answer is incomplete: %s", review.Status.EvaluationError)
	}
	verbs := map[string][]string{}
	for _, r := range review.Status.ResourceRules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				what := strings.TrimPrefix(group+"/"+resource, "/")
				if len(r.ResourceNames) > 0 {
					what += fmt.Sprint(r.ResourceNames)
				}
				verbs[what] = append(verbs[what], r.Verbs...)
			}
		}
	}
	var lines []string
	for what, v := range verbs {
		slices.Sort(v)
		lines = append(lines, what+": "+strings.Join(slices.Compact(v), " "))
	}
	slices.Sort(lines)
	return lines
}

func client(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestAgentMayDoThisAndNoMore compares all permissions: whoever adds one
// changes this list, too.
func TestAgentMayDoThisAndNoMore(t *testing.T) {
	for in, want := range map[string][]string{
		namespace: {
			"coordination.k8s.io/leases: create delete get list update watch",
			"discovery.k8s.io/endpointslices: get list watch",
			"nodes: get",
			"secrets: get list watch",
		},
		"default": {
			"discovery.k8s.io/endpointslices: get list watch",
			"nodes: get",
		},
	} {
		if d := cmp.Diff(want, rules(t, "sluice-agent", in)); d != "" {
			t.Errorf("permissions in namespace %s (-want +got):\n%s", in, d)
		}
	}
}

// TestControllerWritesNothingOfOthersButStatusesAndEvents also allows what
// Services for Gateways take (services.yaml).
func TestControllerWritesNothingOfOthersButStatusesAndEvents(t *testing.T) {
	lines := rules(t, "sluice-controller", "default")
	if len(lines) == 0 {
		t.Fatal("the controller has no permissions at all")
	}
	for _, line := range lines {
		what, verbs, _ := strings.Cut(line, ": ")
		for verb := range strings.FieldsSeq(verbs) {
			switch {
			case slices.Contains([]string{"get", "list", "watch"}, verb):
			case strings.HasSuffix(what, "/status") && (verb == "update" || verb == "patch"):
			case what == "services" && slices.Contains([]string{"create", "patch", "delete"}, verb):
			case what == "discovery.k8s.io/endpointslices" && (verb == "create" || verb == "patch"):
			case what == "gateway.networking.k8s.io/gatewayclasses" && verb == "patch": // their finalizer
			case strings.HasSuffix(what, "events") && (verb == "create" || verb == "patch"):
			default:
				t.Errorf("the controller may %s %s", verb, what)
			}
		}
	}
}

func TestAgentReadsSecretsOfItsOwnNamespaceOnly(t *testing.T) {
	config, err := server.ServiceAccount(t.Context(), namespace, "sluice-agent")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		verb, namespace string
		allowed         bool
	}{
		{"get", namespace, true},
		{"list", namespace, true},
		{"watch", namespace, true},
		{"create", namespace, false},
		{"update", namespace, false},
		{"patch", namespace, false},
		{"delete", namespace, false},
		{"get", "default", false},
		{"list", "", false},
		{"watch", "", false},
	} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: c.verb, Resource: "secrets", Namespace: c.namespace}}}
		review, err := client(t, config).AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed != c.allowed {
			t.Errorf("%s Secrets in namespace %q: allowed %t, want %t", c.verb, c.namespace, review.Status.Allowed, c.allowed)
		}
	}
}
