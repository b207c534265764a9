// SPDX-License-Identifier: Apache-2.0

package node

import (
	"time"

	"github.com/sluice-gateway/sluice/agent/config"
	"github.com/sluice-gateway/sluice/controller/endpoints"
)

// resolve gives each backend with a Service the endpoints that are usable from
// a place, and returns why backends have none. The backends of s are its own.
func resolve(s *config.Snapshot, slicesOf slicesFunc, at endpoints.Place) (empty map[string]string) {
	empty = map[string]string{}
	for i := range s.Backends {
		b := &s.Backends[i]
		if b.Service == nil {
			continue
		}
		usable, why := endpoints.Select(*b.Service, slicesOf(b.Service.Namespace, b.Service.Name), at)
		b.Endpoints, b.Service = usable, nil
		if why != "" {
			empty[b.Name] = why
		}
	}
	return empty
}

// toldAfter is for how long a backend has no endpoint before the controller is told.
// A Service comes before its endpoints, and one pod makes room for the next: statuses
// need not show that. What an agent finds at its start is told at once: it was so before.
const toldAfter = 5 * time.Second

// empty are the backends without endpoints, with the time since which.
type empty map[string]time.Time

// lasting returns those of now that have been empty for long enough, with the reason.
func (e *empty) lasting(now map[string]string, at time.Time) map[string]string {
	if *e == nil {
		*e = empty{}
		for b := range now {
			(*e)[b] = time.Time{}
		}
	}
	for b := range *e {
		if now[b] == "" {
			delete(*e, b)
		}
	}
	out := map[string]string{}
	for b, why := range now {
		since, known := (*e)[b]
		switch {
		case !known:
			(*e)[b] = at
		case at.Sub(since) >= toldAfter:
			out[b] = why
		}
	}
	return out
}
