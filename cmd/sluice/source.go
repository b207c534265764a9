// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/sluice-gateway/sluice/agent"
	"github.com/sluice-gateway/sluice/agent/address"
	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/folder"
	"github.com/sluice-gateway/sluice/controller/translate"
)

const (
	controllerName = "sluice.dev/gateway-controller"
	className      = "sluice"
)

// source turns the objects of a folder into snapshots for the agent, and what
// the agent says of them into the statuses of the objects.
type source struct {
	dir           string
	log           *slog.Logger
	agent         *agent.Agent
	nodeAddresses []netip.Addr
	end           func()          // of the process, after draining
	holder        *address.Holder // nil until there is an address to hold

	mu         sync.Mutex
	handedOver bool
	read       bool
	resources  translate.Resources
	files      []folder.Problem
	snapshot   *config.Snapshot
	hash       string
	statuses   []translate.Status
	problems   []string // of files, objects and the node, as they were logged
	warnings   []string // of objects, as they were logged
	views      []translate.RouteView
}

// resourceStatus is the part of the status that speaks of files and objects.
type resourceStatus struct {
	Files []folder.Problem `json:"files,omitempty"`
	// Listeners are those of all Gateways, also where they are not served.
	Listeners []listenerSpec     `json:"listeners,omitempty"`
	Objects   []translate.Status `json:"objects"`
	Problems  []string           `json:"problems,omitempty"`
}

// listenerSpec is what a Gateway or a ListenerSet asks for.
type listenerSpec struct {
	// Name is that of the listener in the snapshot (config.Listener).
	Name     string `json:"name"`
	Port     int32  `json:"port"`
	Protocol string `json:"protocol"`
	Hostname string `json:"hostname,omitempty"`
}

func (l listenerSpec) port() string { return fmt.Sprintf("%d/%s", l.Port, l.Protocol) }

// hostname is "*" for every name, and "-" where the protocol has none.
func (l listenerSpec) hostname() string {
	if l.Protocol == "TCP" || l.Protocol == "UDP" {
		return "-"
	}
	return cmp.Or(l.Hostname, "*")
}

func listenerSpecs(r *translate.Resources) []listenerSpec {
	var out []listenerSpec
	add := func(prefix string, l *gwv1.Listener) {
		spec := listenerSpec{Name: prefix + "/" + string(l.Name), Port: l.Port, Protocol: string(l.Protocol)}
		if l.Hostname != nil {
			spec.Hostname = string(*l.Hostname)
		}
		out = append(out, spec)
	}
	for _, g := range r.Gateways {
		for i := range g.Spec.Listeners {
			add(g.Namespace+"/"+g.Name, &g.Spec.Listeners[i])
		}
	}
	for _, s := range r.ListenerSets {
		namespace := s.Namespace
		if s.Spec.ParentRef.Namespace != nil {
			namespace = string(*s.Spec.ParentRef.Namespace)
		}
		for i := range s.Spec.Listeners {
			add(fmt.Sprintf("%s/%s/%s/%s", namespace, s.Spec.ParentRef.Name, s.Namespace, s.Name), (*gwv1.Listener)(&s.Spec.Listeners[i]))
		}
	}
	return out
}

// apply takes what the folder holds now.
func (s *source) apply(r translate.Resources, files []folder.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.handedOver {
		return
	}
	if len(r.Gateways) == 0 && len(files) == 0 {
		files = []folder.Problem{{File: s.dir, Message: "nothing is served: there is no Gateway in it; put one there with its routes, Secrets, Services " +
			"and EndpointSlices, as kubectl apply takes them, in files *.yaml, *.yml or *.json (sub-folders are not read)"}}
	}
	s.read, s.resources, s.files = true, r, files
	s.refresh()
	s.log.Info("folder read", "snapshot", s.hash[:12], "listeners", len(s.snapshot.Listeners), "routes", len(s.snapshot.Routes), "problems", len(s.problems))
}

// report returns the statuses as of now: a listener may have found its address
// free since, and a certificate may have expired.
func (s *source) report() (status any, problems int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.read {
		return nil, 0
	}
	// What a gateway that ends no longer serves is no news of its objects.
	if !s.agent.Draining() {
		s.refresh()
	}
	return resourceStatus{s.files, listenerSpecs(&s.resources), s.statuses, s.problems}, len(s.problems)
}

// routes tells what became of the routes.
func (s *source) routes() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.views
}

// refresh brings the agent in line with the resources and the statuses in line
// with the agent. The caller holds mu.
func (s *source) refresh() {
	t := translate.Translate(s.resources, translate.Options{ControllerName: controllerName, DefaultClass: className, Now: time.Now(),
		Previous: s.snapshot, Statuses: s.statuses, NodeAddresses: s.nodeAddresses})
	if hash := t.Snapshot.Hash(); hash != s.hash {
		s.agent.Apply(t.Snapshot)
		s.hold(t.Snapshot.Addresses)
		s.snapshot, s.hash = t.Snapshot, hash
	}
	s.views = t.Routes()
	s.statuses = t.Statuses(translate.Feedback{Reports: []config.Report{s.served()}})
	s.tell()
}

// hold makes the machine have the addresses of pools: there is no other node.
// The caller holds mu.
func (s *source) hold(addresses []netip.Addr) {
	if s.holder == nil && len(addresses) > 0 && !s.handedOver {
		s.holder = address.New(s.log)
	}
	if s.holder != nil {
		s.holder.Set(addresses)
	}
}

// handOver leaves the addresses to a successor, and lets this process end when
// its connections have.
func (s *source) handOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holder != nil {
		s.holder.Keep()
		s.holder.Leave()
		s.holder.Close()
		s.holder = nil
	}
	s.handedOver = true
	s.end()
}

// letGo ends the holding of addresses, at the end of everything.
func (s *source) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holder != nil {
		s.holder.Set(nil)
		s.holder.Close()
	}
}

// served is what the agent says of its listeners, and what there is of the
// addresses to be held.
func (s *source) served() config.Report {
	r := s.agent.Report()
	if s.holder != nil {
		r.Addresses = map[netip.Addr]string{}
		missing := s.holder.Missing()
		for _, a := range s.snapshot.Addresses {
			r.Addresses[a] = ""
			if err := missing[a]; err != nil {
				r.Addresses[a] = err.Error()
			}
		}
	}
	return r
}

// tell logs the problems and warnings that are new, and the problems that are
// gone.
func (s *source) tell() {
	var problems, warnings []string
	for _, f := range s.files {
		problems = append(problems, f.String())
	}
	for i := range s.statuses {
		o := &s.statuses[i]
		problems = append(problems, o.Problems()...)
		for _, w := range o.Warnings {
			warnings = append(warnings, o.Key().String()+": "+w)
		}
	}
	problems = append(problems, s.agent.Problems(time.Now())...)
	if s.holder != nil {
		for _, err := range s.holder.Failures() {
			problems = append(problems, err.Error())
		}
	}
	for _, p := range problems {
		if !slices.Contains(s.problems, p) {
			s.log.Warn("problem", "problem", p)
		}
	}
	for _, p := range s.problems {
		if !slices.Contains(problems, p) {
			s.log.Info("problem is gone", "problem", p)
		}
	}
	for _, w := range warnings {
		if !slices.Contains(s.warnings, w) {
			s.log.Warn("warning", "warning", w)
		}
	}
	s.problems, s.warnings = problems, warnings
}
