// SPDX-License-Identifier: Apache-2.0

// Package controller is the one process of a cluster that decides: it watches
// Gateway API objects, translates them, publishes to every node what it has to
// serve, and writes statuses.
//
// Several replicas may run. All of them watch; the one that holds the Lease
// writes. There is one reconciliation for everything: list all objects from
// the copies that the watch keeps, translate, publish what differs, write the
// statuses that differ. So no event can be missed or come in a wrong order.
//
// What nodes need is all in their namespace (package publication), so they
// serve on while no controller runs, and one that starts finds there what was
// served last.
//
// CRDs may be missing, come later and go: a kind is watched while the API
// server has it.
//
// A controller reads metadata of all Secrets and the data of those that
// Gateways refer to, but RBAC cannot tell the two apart. It needs these rights:
//
//	everywhere
//	  gateway.networking.k8s.io  gatewayclasses gateways listenersets tcproutes
//	                             tlsroutes httproutes grpcroutes udproutes
//	                             referencegrants backendtlspolicies       get list watch
//	  sluice.dev                 gatewayconfigs                           get list watch
//	  gateway.networking.k8s.io  the same, /status (not of referencegrants)  update
//	  gateway.networking.k8s.io  gatewayclasses (their finalizers)        patch
//	  ""                         namespaces services secrets configmaps   get list watch
//	  apiextensions.k8s.io       customresourcedefinitions                get list watch
//	  events.k8s.io              events                                   create patch
//	in its own namespace
//	  ""                         secrets                                  create update delete
//	  coordination.k8s.io        leases                                   get list watch create update delete
//
// and, where it shall make Services for Gateways (package infrastructure),
//
//	everywhere
//	  ""                         services                                 create patch delete
//	  discovery.k8s.io           endpointslices                           create patch
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/sluice-gateway/sluice/agent/desk"
	"github.com/sluice-gateway/sluice/controller/infrastructure"
	"github.com/sluice-gateway/sluice/controller/patient"
	"github.com/sluice-gateway/sluice/controller/translate"
)

// ControllerName is the spec.controllerName of GatewayClasses that are ours.
const ControllerName = "sluice.dev/gateway-controller"

// Options say where a controller runs.
type Options struct {
	// Config is how to reach the API server.
	Config *rest.Config
	// Namespace is Sluice's own.
	Namespace string
	// Identity tells the replicas apart.
	Identity string
	// Metrics is the address of /metrics, /healthz and /readyz, "" for none.
	Metrics string
	// Log is required.
	Log *slog.Logger
}

// Controller is a replica.
type Controller struct {
	manager   manager.Manager
	namespace string
	watch     *watch
	nodes     *nodes
	publisher *publisher
	loop      *loop
}

var scheme = newScheme()

// New makes a replica. The API server need not be there yet.
func New(o Options) (*Controller, error) {
	switch {
	case o.Namespace == "":
		return nil, errors.New("the namespace of Sluice is not known; set -namespace or POD_NAMESPACE")
	case o.Identity == "":
		return nil, errors.New("a replica needs an identity")
	}
	logger := logr.FromSlogHandler(o.Log.Handler())
	log.SetLogger(logger) // of what controller-runtime makes on its own
	config := rest.CopyConfig(o.Config)
	patient.Watches(config)
	config.QPS = -1 // requests are bounded by concurrency, and by the API server's own fairness
	c := &Controller{namespace: o.Namespace}
	stop := 10 * time.Second
	m, err := manager.New(config, manager.Options{
		Scheme:                  scheme,
		Logger:                  logger,
		Metrics:                 metricsserver.Options{BindAddress: "0"}, // its connections have no bounds
		GracefulShutdownTimeout: &stop,
		Cache: cache.Options{
			DefaultTransform: slim, ReaderFailOnMissingInformer: true,
			ByObject: map[client.Object]cache.ByObject{
				&coordinationv1.Lease{}: {Field: fields.OneTermEqualSelector("metadata.namespace", o.Namespace), Transform: slim},
			},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	typed, err := kubernetes.NewForConfigAndClient(config, m.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	metrics := newMetrics(ctrlmetrics.Registry)
	c.manager = m
	c.watch = newWatch(m.GetCache(), o.Log)
	fresh := newNews()
	c.watch.event, c.watch.changed = c.observe, fresh.more
	c.nodes = &nodes{log: o.Log, now: time.Now}
	c.publisher = &publisher{namespace: o.Namespace, client: m.GetClient(), reader: m.GetAPIReader(), log: o.Log}
	c.loop = &loop{log: o.Log, metrics: metrics, client: m.GetClient(), watch: c.watch, nodes: c.nodes,
		secrets: newSecrets(m.GetAPIReader()), configMaps: newConfigMaps(m.GetAPIReader()), publisher: c.publisher, news: fresh,
		services: &infrastructure.Maker{Client: typed},
		statusWriter: &statusWriter{client: m.GetClient(), reader: m.GetAPIReader(), version: c.watch.version, log: o.Log, metrics: metrics,
			teller: newTeller(m.GetEventRecorder(eventSource))}}
	if o.Metrics != "" {
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(ctrlmetrics.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
		mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
		mux.HandleFunc("/readyz", c.ready)
		s := desk.New(mux, o.Log)
		s.Addr = o.Metrics
		if err := m.Add(&manager.Server{Name: "metrics", Server: s, ShutdownTimeout: &stop}); err != nil {
			return nil, fmt.Errorf("controller: %w", err)
		}
	}
	for _, r := range []manager.Runnable{c.watch,
		&election{config: config, namespace: o.Namespace, identity: o.Identity, lead: c.loop.run, metrics: metrics}} {
		if err := m.Add(r); err != nil {
			return nil, fmt.Errorf("controller: %w", err)
		}
	}
	return c, nil
}

// Run works until ctx ends. It gives the lead back after its last write.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.manager.Start(ctx); err != nil {
		return fmt.Errorf("controller: %w", err)
	}
	return nil
}

// ready answers whether everything that there is to watch has been read.
func (c *Controller) ready(w http.ResponseWriter, _ *http.Request) {
	if !c.watch.isComplete() {
		http.Error(w, "waiting for the API server to tell of all objects", http.StatusServiceUnavailable)
	}
}

// observe looks at a change, and wakes the loop when it may mean something.
func (c *Controller) observe(k *kind, old, now client.Object) {
	o := now
	if o == nil {
		o = old
	}
	news, name := c.loop.news, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
	key, version := translate.Key{Kind: k.name, Namespace: name.Namespace, Name: name.Name}, ""
	if now != nil {
		version = now.GetResourceVersion()
	}
	switch k.name {
	case leaseKind:
		if c.nodes.observe(o.(*coordinationv1.Lease), now == nil) {
			news.nodes()
		}
	case secretKind:
		switch {
		case c.loop.secrets.wants(name):
			news.more()
		case name.Namespace == c.namespace && c.publisher.observe(old, now):
			news.object(key, version) // one that has the name of ours, it may be
		}
	case configMapKind:
		if c.loop.configMaps.wants(name) {
			news.more()
		}
	default:
		news.object(key, version)
	}
}
