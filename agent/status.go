// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/agent/splice"
	"github.com/sluice-gateway/sluice/terminator"
)

// Status is what a node says of itself. It holds no secrets.
type Status struct {
	Version string `json:"version"`
	// Instance is the name of the agent's pod, "" where there is none.
	Instance string    `json:"instance,omitempty"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	// Snapshot is the hash of what is served, "" before the first one.
	Snapshot string    `json:"snapshot,omitempty"`
	Applied  time.Time `json:"applied,omitzero"`
	// Draining says that the agent is ending.
	Draining     bool                `json:"draining,omitempty"`
	Splice       SpliceStatus        `json:"splice"`
	Listeners    []ListenerStatus    `json:"listeners"`
	Certificates []CertificateStatus `json:"certificates"`
	// Unresolved are endpoint names whose last lookup failed, with the cause.
	Unresolved map[string]string `json:"unresolved,omitempty"`
	// Resources is what the source of the snapshots says about them.
	Resources any `json:"resources,omitempty"`
}

// SpliceStatus says whether decrypted bytes are spliced.
type SpliceStatus struct {
	On bool `json:"on"`
	// Reason is a label of sluice_splice_state, "off" when it was not wanted.
	Reason string `json:"reason,omitempty"`
	// Message is the cause, and what would cure it.
	Message string `json:"message,omitempty"`
	// Pins is where bpftool finds the maps, or why it does not.
	Pins string `json:"pins,omitempty"`
	// Outcomes counts connections by what became of them.
	Outcomes map[string]uint64 `json:"outcomes,omitempty"`
	// Bytes went past TCP.
	Bytes terminator.Bytes `json:"bytes,omitzero"`
}

// ListenerStatus says how a listener is served.
type ListenerStatus struct {
	Name      string          `json:"name"`
	Addresses []netip.Addr    `json:"addresses,omitempty"`
	Port      uint16          `json:"port"`
	Protocol  config.Protocol `json:"protocol"`
	Hostname  string          `json:"hostname,omitempty"`
	// Problem is why the listener is not served, "" when it is.
	Problem string `json:"problem,omitempty"`
	// Connections are the open ones, of a UDP listener its sessions.
	Connections int `json:"connections"`
}

// Status tells what the node serves, and how.
func (a *Agent) Status() Status {
	s := Status{Version: a.opts.Version, Instance: a.opts.Instance, PID: os.Getpid(), Started: a.started, Draining: a.ending.Load(), Splice: a.splice,
		Unresolved: a.resolver.unresolved(), Listeners: []ListenerStatus{}, Certificates: []CertificateStatus{}}
	if a.splicer != nil {
		s.Splice.Outcomes, _ = a.splicer.Outcomes() // closed: none
		up, down, _ := a.splicer.Bytes()
		s.Splice.Bytes = terminator.Bytes{Up: int64(up), Down: int64(down)}
	}
	if a.opts.Resources != nil {
		s.Resources, _ = a.opts.Resources()
	}
	c := a.current.Load()
	if c == nil {
		return s
	}
	s.Snapshot, s.Applied = c.hash, c.at
	open := map[string]int{}
	for _, conn := range a.Connections() {
		open[conn.Listener]++
	}
	maps.Copy(open, a.udp.Sessions())
	report := a.Report()
	for _, l := range c.snapshot.Listeners {
		s.Listeners = append(s.Listeners, ListenerStatus{Name: l.Name, Addresses: l.Addresses, Port: l.Port, Protocol: l.Protocol,
			Hostname: l.Hostname, Problem: report.Listeners[l.Name], Connections: open[l.Name]})
	}
	s.Certificates = append(s.Certificates, c.certificates...)
	return s
}

// Draining tells whether the agent has begun to end, or has handed over.
func (a *Agent) Draining() bool { return a.ending.Load() || a.left.Load() }

// Problems lists what is wrong with what the node serves and shows in no
// object's status: certificates that have expired, endpoints without address.
func (a *Agent) Problems(now time.Time) []string {
	var out []string
	if c := a.current.Load(); c != nil {
		for _, c := range c.certificates {
			if now.After(c.NotAfter) && !c.NotAfter.IsZero() {
				out = append(out, fmt.Sprintf("%s expired %s; replace it", c.text(), c.NotAfter.Format(time.RFC3339)))
			}
		}
	}
	unresolved := a.resolver.unresolved()
	for _, name := range slices.Sorted(maps.Keys(unresolved)) {
		out = append(out, fmt.Sprintf("endpoint %s does not resolve: %s; correct the name, or name resolution on this node", name, unresolved[name]))
	}
	return out
}

// openSplice loads the kernel half, or says once why there is none.
func (a *Agent) openSplice() {
	log := a.opts.Log
	if a.opts.Splice == nil {
		a.splice = SpliceStatus{Reason: "off", Message: "turned off"}
		log.Info("relay mode: the splice is turned off")
		return
	}
	s, err := splice.Open(*a.opts.Splice)
	if err != nil {
		a.spliceErr = err
		a.splice = SpliceStatus{Reason: "error", Message: err.Error()}
		if u, ok := errors.AsType[*splice.Unavailable](err); ok {
			a.splice = SpliceStatus{Reason: u.Reason, Message: u.Err.Error()}
			if u.Reason == splice.ReasonCgroup && a.opts.Splice.Cgroup != "" {
				a.splice.Message += "; give -cgroup a folder of cgroup2, below /sys/fs/cgroup or /sys/fs/cgroup/unified"
			}
		}
		log.Warn("relay mode: no splice on this machine; sluice doctor tells more", "reason", a.splice.Reason, "error", a.splice.Message)
		return
	}
	a.splicer = s
	a.splice = SpliceStatus{On: true, Pins: s.SelfTest().Pins}
	a.opts.Server.Dial = s.Dial
	log.Info("splice is on", "maps", a.splice.Pins)
}

// endpoints are what the kernel half is told: every address behind a route of
// whole connections. Where several routes share one, it carries the name of
// the first, and one that wants no splice decides.
func endpoints(s *config.Snapshot) []splice.Endpoint {
	backends := map[string]*config.Backend{}
	for i := range s.Backends {
		backends[s.Backends[i].Name] = &s.Backends[i]
	}
	var out []splice.Endpoint
	at := map[netip.AddrPort]int{}
	for _, r := range s.Routes {
		for _, ref := range r.Backends {
			b := backends[ref.Backend]
			if b == nil {
				continue
			}
			policy := splice.Auto
			if b.Splice == config.SpliceOff {
				policy = splice.Off
			}
			for _, e := range b.Endpoints {
				addr, err := netip.ParseAddr(e.Host)
				if err != nil {
					continue // a name without an answer
				}
				ap := netip.AddrPortFrom(addr.Unmap(), e.Port)
				i, known := at[ap]
				if !known {
					i = len(out)
					at[ap] = i
					out = append(out, splice.Endpoint{Address: ap, Route: r.Name, Policy: policy})
				}
				if policy == splice.Off {
					out[i].Policy = splice.Off
				}
			}
		}
	}
	return out
}
