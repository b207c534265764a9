// SPDX-License-Identifier: Apache-2.0

package udp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
)

// Forwarder serves the UDP listeners of snapshots. New makes it; Run keeps
// what it does in order, and takes it away at the end.
type Forwarder struct {
	// FreeBind serves listeners on addresses that the node does not have, as
	// terminator.Server.FreeBind does. Not to be changed after the first Apply.
	FreeBind bool

	log *slog.Logger

	mu       sync.Mutex // also one transaction at a time
	want     []listener
	comes    map[netip.Addr]bool // addresses that nodes share: this one may get them
	problems map[string]string   // by listener, "" when it is served
	sockets  map[netip.AddrPort]*socket
	owner    net.Listener // while the table is ours
	written  []listener   // what the table was last made for, nil when unknown
	looked   bool         // for a table that a killed process left
	ended    bool

	strays chan struct{} // a datagram came to a socket
	change chan struct{} // problems may have come
}

// New returns a Forwarder that serves nothing yet.
func New(log *slog.Logger) *Forwarder {
	return &Forwarder{log: log, problems: map[string]string{}, sockets: map[netip.AddrPort]*socket{},
		strays: make(chan struct{}, 1), change: make(chan struct{}, 1)}
}

// retryEvery is how often what could not be served is tried again, and the
// least time between two repairs.
const retryEvery = time.Second

// Run tries again what could not be served, and mends what others break, until
// ctx ends. Then the rules and the sockets go. Sessions that exist stay in the
// kernel's connection tracking and end when they are idle, so that they go on
// at once when the next process starts.
func (f *Forwarder) Run(ctx context.Context) error {
	for {
		var again <-chan time.Time
		if f.failing() {
			again = time.After(retryEvery)
		}
		select {
		case <-ctx.Done():
			return f.end()
		case <-f.change:
		case <-again:
			f.mu.Lock()
			f.serve()
			f.mu.Unlock()
		case <-f.strays:
			f.mu.Lock()
			f.written = nil // whatever the table is now
			f.serve()
			f.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(retryEvery):
			}
		}
	}
}

func (f *Forwarder) failing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.problems {
		if p != "" {
			return true
		}
	}
	return false
}

// Apply serves the UDP listeners of a valid snapshot and tells for each why it
// is not served, "" when it is. Endpoints must be addresses; others are left
// out. Sessions whose endpoint stays go on.
func (f *Forwarder) Apply(s *config.Snapshot) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.want, f.comes = plan(s), map[netip.Addr]bool{}
	for _, a := range s.Addresses {
		f.comes[a] = true
	}
	f.serve()
	select {
	case f.change <- struct{}{}:
	default:
	}
	return maps.Clone(f.problems)
}

// Report says again what Apply said, with what has changed since.
func (f *Forwarder) Report() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.problems)
}

var errEnded = errors.New("the agent has stopped")

// serve brings the node in line with want. f.mu is held.
func (f *Forwarder) serve() {
	problems := map[string]string{}
	if f.ended { // or left
		for _, l := range f.want {
			problems[l.name] = errEnded.Error()
		}
		f.problems = problems
		return
	}
	served := f.hold(problems)
	if err := f.write(served); err != nil {
		f.written = nil
		for _, l := range served {
			problems[l.name] = explain(err)
		}
	} else {
		for _, l := range served {
			problems[l.name] = unreachable(&l)
		}
	}
	for name, p := range problems {
		if p != "" && p != f.problems[name] {
			f.log.Error("UDP listener is not served", "listener", name, "error", p)
		} else if p == "" && f.problems[name] != "" {
			f.log.Info("UDP listener is served at last", "listener", name)
		}
	}
	f.problems = problems
}

// write makes the table that of the listeners, or takes it away where there
// are none. f.mu is held.
func (f *Forwarder) write(listeners []listener) error {
	if f.written != nil && reflect.DeepEqual(f.written, listeners) {
		return nil
	}
	if len(listeners) == 0 && f.looked && f.owner == nil {
		return nil
	}
	conn, err := dial()
	if err != nil {
		return err
	}
	if len(listeners) == 0 && f.owner == nil {
		// A process that was killed may have left its table. Who may not even
		// look has left none.
		f.looked = true
		if there, err := exists(conn); err != nil || !there {
			return nil
		}
	}
	f.looked = true
	if err := f.own(); err != nil {
		return err
	}
	if len(listeners) == 0 {
		err = errors.Join(remove(conn), endStale(nil), f.disown())
	} else {
		err = errors.Join(contentOf(listeners).write(conn), endStale(listeners))
	}
	if err != nil {
		return err
	}
	f.written = listeners
	return nil
}

// ownerName is an abstract unix socket: one for a network namespace, as the
// table is, and gone with its process, however that ends.
const ownerName = "@sluice/udp"

// own makes the table ours, or says who has it.
func (f *Forwarder) own() (err error) {
	if f.owner != nil {
		return nil
	}
	f.owner, err = net.Listen("unix", ownerName)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("another gateway serves UDP in this network namespace, and there can be one; ss -xlp src %s names it", ownerName)
	}
	return err
}

func (f *Forwarder) disown() error {
	err := f.owner.Close()
	f.owner = nil
	return err
}

// Leave leaves the rules, and with them the sessions, to another process of this
// network namespace: nothing is changed or taken away any more.
func (f *Forwarder) Leave() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.closeSockets()
	f.serve()
	if f.owner == nil {
		return nil
	}
	return f.disown()
}

func (f *Forwarder) closeSockets() {
	for at, s := range f.sockets {
		s.close()
		delete(f.sockets, at)
	}
}

// end takes everything away.
func (f *Forwarder) end() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	var errs []error
	if f.owner != nil {
		conn, err := dial()
		if err == nil {
			err = remove(conn)
		}
		errs = append(errs, err, f.disown())
	}
	f.closeSockets()
	f.serve()
	return errors.Join(errs...)
}
