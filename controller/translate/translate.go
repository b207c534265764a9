// SPDX-License-Identifier: Apache-2.0

// Package translate turns Gateway API objects into what a node serves.
//
// [Translate] is a pure function: objects in, a [config.Snapshot] and statuses
// out, no I/O, no clock, no state. The same objects in another order give the
// same result. What users got wrong is never an error: it is a condition of
// the object, with a message that names the fix, and everything else goes on.
//
// One extension of the Gateway API: a TCPRoute may attach to a TLS listener
// that terminates, and to an HTTPS listener, where it gets the connections
// whose server name no HTTPRoute claims. A TCPRoute that names no listener does
// so only where no listener with protocol TCP takes it.
package translate

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/v1alpha1"
)

// Options are what a translation depends on besides the objects.
type Options struct {
	// ControllerName says which GatewayClasses are ours.
	ControllerName string
	// DefaultClass, when set, is a class that is ours without a GatewayClass
	// object. It also means that Resources is all there is and that no other
	// controller reads it (a folder): references to Gateways and classes that do
	// not exist are reported instead of left to others, and ExternalName
	// Services are served, which among tenants would go round ReferenceGrants.
	DefaultClass string
	// Now is the time of transitions, and what certificates are checked against.
	Now time.Time
	// Previous is the snapshot that is served, nil at the start. The last good
	// certificate of a Secret that turned bad is taken from it.
	Previous *config.Snapshot
	// Statuses are those of the last translation, for sources where objects do
	// not carry their status; they keep lastTransitionTime.
	Statuses []Status
	// Reports are what nodes say of what they serve. They make the Programmed
	// conditions; without any the conditions are Unknown.
	Reports []config.Report
	// ByNode leaves the endpoints of Services to the nodes (config.Service):
	// EndpointSlices are not looked at.
	ByNode bool
	// NodeAddresses are those of the nodes that serve: what a Gateway without
	// spec.addresses gets as status.addresses where its class says nothing else,
	// and what a Gateway may name.
	NodeAddresses []netip.Addr
	// BundleVersion is the version of the installed Gateway API CRDs
	// (annotation gateway.networking.k8s.io/bundle-version), "" where there are
	// none.
	BundleVersion string
}

// Translate returns what the objects ask for, sorted and valid, and the
// statuses of GatewayClasses, Gateways and routes that are ours, by kind,
// namespace and name.
func Translate(r Resources, o Options) (*config.Snapshot, []Status) {
	t := newTranslator(r, o)
	t.readClasses()
	t.readGateways()
	t.readListenerSets()
	t.assignAddresses()
	t.settleConflicts()
	t.resolveCertificates()
	t.findOverlaps()
	t.readPolicies()
	t.attachRoutes()
	t.noteHTTPFirst()
	s := t.snapshot()
	state := snapshotState{hash: s.Hash(), reports: o.Reports}
	if slices.ContainsFunc(o.Reports, func(r config.Report) bool { return r.Parts != nil }) {
		state.parts = map[string]string{}
		for gateway, p := range s.Parts() {
			state.parts[gateway] = p.Hash()
		}
	}
	return s, t.statuses(state)
}

// translator is the working state of one translation.
type translator struct {
	Options
	in Resources

	classes    map[string]*class
	configs    map[name]*v1alpha1.GatewayConfig
	namespaces map[string]*corev1.Namespace
	secrets    map[name]*corev1.Secret
	services   map[name]*corev1.Service
	slices     map[name][]*discoveryv1.EndpointSlice // by Service
	configMaps map[name]*corev1.ConfigMap
	policies   map[name][]*policy // by Service, oldest first
	policyList []*policy          // all of them, oldest first
	previous   map[string]config.Certificate
	// previousAddresses are those of the listeners in Previous, by Gateway.
	previousAddresses map[string][]netip.Addr
	stored            map[Key]*Status // what was said last

	gateways     []*gateway // ours, oldest first
	gatewayIndex map[name]*gateway
	setIndex     map[name]*listenerSet
	routes       []*route
	certificates map[name]*certificate
	authorities  map[name]*authority
	backends     map[string]*backend
}

func newTranslator(r Resources, o Options) *translator {
	t := &translator{Options: o, in: r,
		classes:           map[string]*class{},
		configs:           index(r.GatewayConfigs),
		namespaces:        map[string]*corev1.Namespace{},
		secrets:           index(r.Secrets),
		services:          index(r.Services),
		slices:            map[name][]*discoveryv1.EndpointSlice{},
		policies:          map[name][]*policy{},
		configMaps:        index(r.ConfigMaps),
		authorities:       map[name]*authority{},
		previous:          map[string]config.Certificate{},
		previousAddresses: map[string][]netip.Addr{},
		stored:            map[Key]*Status{},
		gatewayIndex:      map[name]*gateway{},
		setIndex:          map[name]*listenerSet{},
		certificates:      map[name]*certificate{},
		backends:          map[string]*backend{},
	}
	for _, n := range r.Namespaces {
		t.namespaces[n.Name] = n
	}
	for _, s := range byAge(r.EndpointSlices) {
		of := name{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
		t.slices[of] = append(t.slices[of], s)
	}
	if o.Previous != nil {
		for _, c := range o.Previous.Certificates {
			t.previous[c.Name] = c
		}
		for i := range o.Previous.Listeners {
			l := &o.Previous.Listeners[i]
			t.previousAddresses[l.Gateway()] = l.Addresses // of any of them
		}
	}
	for i := range o.Statuses {
		s := &o.Statuses[i]
		t.stored[Key{s.Kind, s.Namespace, s.Name}] = s
	}
	return t
}

// alone tells that no other controller reads the same objects.
func (t *translator) alone() bool { return t.DefaultClass != "" }
