// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
)

// pluginName is what the binary is called as a plugin of kubectl.
const pluginName = "kubectl-sluice"

// agentPods selects the pods of agents.
const agentPods = "app.kubernetes.io/name=sluice,app.kubernetes.io/component=agent"

// nodeTimeout bounds how long one node may take to answer.
const nodeTimeout = 15 * time.Second

// nodeAnswer is what the agent of one node says.
type nodeAnswer struct {
	Node string `json:"node"`
	// Error is why there is no answer.
	Error  string          `json:"error,omitempty"`
	Answer json.RawMessage `json:"answer,omitempty"`
}

// clusterAccess says which cluster to ask, with the user's own rights.
type clusterAccess struct {
	kubeconfig, context, namespace string
}

func (a *clusterAccess) register(flags *flag.FlagSet) {
	flags.StringVar(&a.kubeconfig, "kubeconfig", "", "`file` that says how to reach the API server (default as kubectl)")
	flags.StringVar(&a.context, "context", "", "`name` of a context in it (default the current one)")
	flags.StringVar(&a.namespace, "namespace", "sluice-system", "`namespace` of Sluice itself")
}

func (a *clusterAccess) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = a.kubeconfig
	c, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: a.context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no cluster to ask: %w; set -kubeconfig or KUBECONFIG", err)
	}
	return c, nil
}

// ask has the agent of every node run a command of this program in its pod,
// which takes the right to create pods/exec in Sluice's namespace: no port is
// opened for it. A node that does not answer says why, and holds up none of the
// others for more than nodeTimeout.
func (a *clusterAccess) ask(ctx context.Context, args []string) ([]nodeAnswer, error) {
	config, err := a.config()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("cluster %s: %w", config.Host, err)
	}
	list, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	pods, err := client.CoreV1().Pods(a.namespace).List(list, metav1.ListOptions{LabelSelector: agentPods})
	if err != nil {
		return nil, fmt.Errorf("list the agents: %w", err)
	}
	if len(pods.Items) == 0 {
		return nil, fmt.Errorf("namespace %s has no agents; give the namespace that Sluice is installed in with -namespace", a.namespace)
	}
	out := make([]nodeAnswer, len(pods.Items))
	var wg sync.WaitGroup
	for i := range pods.Items {
		p := &pods.Items[i]
		wg.Go(func() {
			out[i].Node = cmp.Or(p.Spec.NodeName, "no node yet, pod "+p.Name)
			var err error
			if out[i].Answer, err = execute(ctx, config, client, p, args); err != nil {
				out[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(out, func(a, b nodeAnswer) int { return strings.Compare(a.Node, b.Node) })
	return out, nil
}

// execute runs a command in the pod of an agent. What it prints counts, not its
// exit status, which speaks of what it found.
func execute(ctx context.Context, config *rest.Config, client kubernetes.Interface, p *corev1.Pod, args []string) (json.RawMessage, error) {
	if p.Status.Phase != corev1.PodRunning {
		return nil, fmt.Errorf("pod %s is %s", p.Name, p.Status.Phase)
	}
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	url := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "agent", Command: append([]string{"/sluice"}, args...), Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	exec, err := remotecommand.NewWebSocketExecutor(config, "GET", url.String())
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	err = exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if json.Valid(stdout.Bytes()) {
		return stdout.Bytes(), nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("pod %s did not answer within %s", p.Name, nodeTimeout)
	}
	return nil, fmt.Errorf("pod %s: %s", p.Name, cmp.Or(strings.TrimSpace(stderr.String()), fmt.Sprint(err)))
}

// isPlugin tells whether kubectl started the program.
func isPlugin() bool { return filepath.Base(os.Args[0]) == pluginName }
