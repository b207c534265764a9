// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/address"
	"github.com/sluice-gateway/sluice/controller/node"
)

// clusterFlags are the flags of commands that speak with an API server.
type clusterFlags struct {
	kubeconfig, namespace string
}

func (f *clusterFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&f.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "`file` that says how to reach the API server (default $KUBECONFIG, else that of the pod)")
	flags.StringVar(&f.namespace, "namespace", cmp.Or(os.Getenv("POD_NAMESPACE"), "sluice-system"), "`namespace` of Sluice itself (default $POD_NAMESPACE)")
}

// config says how to reach the API server.
func (f *clusterFlags) config() (*rest.Config, error) {
	if f.kubeconfig == "" {
		c, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("no API server: %w; set -kubeconfig, or serve a folder with sluice run", err)
		}
		return c, nil
	}
	c, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", f.kubeconfig, err)
	}
	return c, nil
}

// nodeFlags are the flags that say which node this is. In a pod they come by
// the downward API.
type nodeFlags struct {
	node, nodeIPs string
}

func (f *nodeFlags) register(flags *flag.FlagSet) {
	flags.StringVar(&f.node, "node", os.Getenv("NODE_NAME"), "`name` of the Node (default $NODE_NAME)")
	flags.StringVar(&f.nodeIPs, "node-ips", os.Getenv("HOST_IPS"), "comma-separated `addresses` of the node (default $HOST_IPS, else those of its links)")
}

func (f *nodeFlags) addresses() ([]netip.Addr, error) {
	if f.nodeIPs == "" {
		return nodeAddresses(), nil
	}
	var out []netip.Addr
	for text := range strings.SplitSeq(f.nodeIPs, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return nil, usageError(fmt.Sprintf("-node-ips: %q is not an IP address", text))
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

// clusterAgent serves what the controller publishes until SIGTERM or SIGINT.
func clusterAgent(e *env, flags *flag.FlagSet, args []string) error {
	var f runFlags
	var c clusterFlags
	var n nodeFlags
	f.register(flags)
	c.register(flags)
	n.register(flags)
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	addresses, err := n.addresses()
	if err != nil {
		return err
	}
	config, err := c.config()
	if err != nil {
		return err
	}
	log, accessLog, err := f.open(e)
	if err != nil {
		return err
	}
	if accessLog != nil {
		defer accessLog.Close()
	}
	klog.SetSlogLogger(log.With("from", "client-go"))

	holder := address.New(log)
	defer holder.Close()
	src, err := node.New(node.Options{Config: config, Namespace: c.namespace, Node: n.node, Identity: identity(),
		Addresses: addresses, Holder: holder, Version: buildVersion(), Log: log})
	if err != nil {
		return err
	}
	defer src.Close()
	opts := f.options(log, accessLog)
	// An address that another node holds now may be this node's in a second.
	opts.Server.FreeBind = true
	opts.Tenants = true
	// Who replaces this pod comes within seconds.
	opts.Server.Linger = f.drainTimeout / 3
	opts.Collectors = append(opts.Collectors, holder)
	opts.Resources = func() (any, int) {
		problems := src.Problems()
		return resourceStatus{Problems: problems}, len(problems)
	}
	opts.HandedOver = src.HandOver
	// For the access log, if there is one; else it is not to end the agent.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	ctx, stop := drainOnSignal(e.ctx, log)
	defer stop()
	a, err := agent.New(opts)
	if err != nil {
		return err
	}
	src.Alone = a.Alone()
	f.tellGCM(log)
	return serve(ctx, stop, a, func(ctx context.Context) error { return src.Run(ctx, a) })
}

// identity tells this process from others that the node has in the course
// of time.
func identity() string {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	return fmt.Sprintf("%s/%d/%d", cmp.Or(os.Getenv("POD_NAME"), name), os.Getpid(), time.Now().UnixNano())
}
