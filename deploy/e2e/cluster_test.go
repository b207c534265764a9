// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

const sluice = "sluice-system" // the namespace

var api client.Client

func TestMain(m *testing.M) {
	if err := connect(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	config.QPS = -1
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gatewayv1.Install} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	api, err = client.New(config, client.Options{Scheme: scheme})
	return err
}

// command runs one of deploy/cluster's scripts and returns its standard output.
func command(input, script string, arguments ...string) (string, error) {
	cmd := exec.Command("../cluster/"+script, arguments...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", script, strings.Join(arguments, " "), err, &complaint)
	}
	return out.String(), nil
}

func mustCommand(t *testing.T, input, script string, arguments ...string) string {
	t.Helper()
	out, err := command(input, script, arguments...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	return mustCommand(t, "", "kubectl.sh", arguments...)
}

// component starts, kills, freezes or thaws a part of the control plane.
func component(t *testing.T, verb, name string) {
	t.Helper()
	mustCommand(t, "", "in.sh", "control", scripts(t)+"/component.sh", verb, name)
}

// scripts is the absolute path of deploy/cluster.
func scripts(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(dir, "/e2e") + "/cluster"
}

// within polls a condition; nil is success.
func within(t *testing.T, most time.Duration, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(most)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", most, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// agentOn names the agent's pod of a node.
func agentOn(t *testing.T, node string) string {
	t.Helper()
	return strings.TrimSpace(kubectl(t, "-n", sluice, "get", "pods", "-l", "app.kubernetes.io/component=agent",
		"--field-selector", "spec.nodeName="+node, "-o", "jsonpath={.items[0].metadata.name}"))
}

func get[O client.Object](t *testing.T, namespace, name string, o O) O {
	t.Helper()
	if err := api.Get(context.Background(), client.ObjectKey{Namespace: namespace, Name: name}, o); err != nil {
		t.Fatal(err)
	}
	return o
}
