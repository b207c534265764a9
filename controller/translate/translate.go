// SPDX-License-Identifier: Apache-2.0

// Package translate turns Gateway API objects into what a node serves.
//
// [Translate] is a pure function: objects in, a [Translation] out, which has the
// [config.Snapshot] and, from what nodes say of it, the statuses; no I/O, no
// clock, no state. The same objects in another order give the
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
	"reflect"
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
	// ByNode leaves the endpoints of Services to the nodes (config.Service):
	// EndpointSlices are not looked at.
	ByNode bool
	// NodeAddresses are those of the nodes that serve: what a Gateway without
	// spec.addresses gets as status.addresses where its class says nothing else,
	// and what a Gateway may name.
	NodeAddresses []netip.Addr
	// NodeNames are the nodes that have them, as far as that is known.
	NodeNames map[netip.Addr]string
	// BundleVersion is the version of the installed Gateway API CRDs
	// (annotation gateway.networking.k8s.io/bundle-version), "" where there are
	// none.
	BundleVersion string
	// Partial says that Resources is not all there is, as with files that are on
	// their way to a cluster. What they refer to and is not among them is taken
	// to be as it should, and listed in Translation.Absent.
	Partial bool
}

// A Translation is what the objects ask for. What became of it is known later,
// and may be more than once: that needs no other translation.
type Translation struct {
	// Snapshot is sorted and valid.
	Snapshot *config.Snapshot
	// Parts are those of Snapshot, by Gateway, where each node is told of them
	// one by one (Options.ByNode).
	Parts map[string]Part
	// Absent are the references to what is not among the objects
	// (Options.Partial).
	Absent []Reference
	// Ungranted are the references that no ReferenceGrant allows.
	Ungranted []Reference

	translator *translator
}

// Part is what is served of a Gateway.
type Part struct {
	*config.Snapshot
	// Hash is that of the snapshot.
	Hash string
}

// Feedback is what became of a translation.
type Feedback struct {
	// Reports are what nodes say of what they serve. They make the Programmed
	// conditions, which without any are Unknown, and say in ResolvedRefs which
	// backends have no endpoint.
	Reports []config.Report
	// Unmade says, by Gateway, why its Service could not be made
	// (Status.Infrastructure), with the cure.
	Unmade map[Key]string
	// NoServices says that no Service can be made, for lack of rights.
	NoServices bool
}

// Translate returns what the objects ask for.
func Translate(r Resources, o Options) *Translation {
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
	t.chooseAncestors()
	t.noteHTTPFirst()
	t.noteForeignServices()
	out := &Translation{Snapshot: t.snapshot(), Absent: t.absent, Ungranted: t.ungranted, translator: t}
	if t.ByNode {
		out.Parts = map[string]Part{}
		for gateway, p := range out.Snapshot.Parts() {
			out.Parts[gateway] = Part{p, p.Hash()}
		}
	}
	return out
}

// Statuses returns those of GatewayClasses, Gateways, routes and policies that
// are ours, or were and say so still, by kind, namespace and name, and warnings
// for objects that refer to Gateways and classes that do not exist.
func (t *Translation) Statuses(f Feedback) []Status {
	s := t.state(f)
	return t.translator.told(t.translator.addStrays(slices.Concat(t.translator.classStatuses(s), t.translator.gatewayStatuses(s),
		t.translator.listenerSetStatuses(s), t.translator.routeStatuses(s, t.translator.routes), t.translator.policyStatuses(), t.translator.released())))
}

// Reported returns those of the Statuses that differ from the last ones, now
// that the reports of f are others than those of before. last are all of them.
func (t *Translation) Reported(now time.Time, before, f Feedback, last []Status) []Status {
	again := *t.translator
	again.Now = now
	again.remember(last)
	s := t.state(f)
	routes := slices.DeleteFunc(slices.Clone(again.routes), func(r *route) bool { return slices.Equal(before.empty(r), f.empty(r)) })
	out := slices.Concat(again.gatewayStatuses(s), again.listenerSetStatuses(s), again.routeStatuses(s, routes))
	again.warnStrays(out, again.strays())
	out = again.told(out)
	return slices.DeleteFunc(out, func(n Status) bool { return reflect.DeepEqual(&n, again.stored[n.Key()]) })
}

// Updated returns statuses, those in order that changed instead of their former
// ones.
func Updated(all, changed []Status) []Status {
	all = slices.Clone(all)
	for _, s := range changed {
		if i, ok := slices.BinarySearchFunc(all, s, compareStatus); ok {
			all[i] = s
		}
	}
	return all
}

func (t *Translation) state(f Feedback) snapshotState {
	s := snapshotState{Feedback: f, parts: t.Parts}
	if slices.ContainsFunc(f.Reports, func(r config.Report) bool { return r.Parts == nil }) {
		s.hash = t.Snapshot.Hash()
	}
	return s
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
	// previousAddresses are those of the listeners in Previous, by Gateway, and
	// previousUsers the Gateways that listen on each.
	previousAddresses map[string][]netip.Addr
	previousUsers     map[netip.Addr][]string
	stored            map[Key]*Status // what was said last

	gateways     []*gateway // ours, oldest first
	gatewayIndex map[name]*gateway
	setIndex     map[name]*listenerSet
	routes       []*route
	certificates map[name]*certificate
	authorities  map[name]*authority
	backends     map[string]*backend

	absent, ungranted []Reference
	refused           map[Reference]bool // those of ungranted
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
		previousUsers:     map[netip.Addr][]string{},
		gatewayIndex:      map[name]*gateway{},
		setIndex:          map[name]*listenerSet{},
		certificates:      map[name]*certificate{},
		backends:          map[string]*backend{},
		refused:           map[Reference]bool{},
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
		for gateway, addresses := range t.previousAddresses {
			for _, a := range addresses {
				t.previousUsers[a] = append(t.previousUsers[a], gateway)
			}
		}
	}
	t.remember(o.Statuses)
	return t
}

// remember makes statuses those that were said last.
func (t *translator) remember(statuses []Status) {
	t.stored = make(map[Key]*Status, len(statuses))
	for i := range statuses {
		t.stored[statuses[i].Key()] = &statuses[i]
	}
}

// alone tells that no other controller reads the same objects.
func (t *translator) alone() bool { return t.DefaultClass != "" }
