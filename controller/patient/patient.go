// SPDX-License-Identifier: Apache-2.0

// Package patient is about API servers that are away for a while.
package patient

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
)

// Watches makes the watches of clients with this config patient: while nobody
// answers at the API server's address a watch waits and tries again every second
// or two, where it would fail otherwise. client-go's informers wait ever longer
// after failures, up to a minute, and would miss an API server for so long that
// is back.
func Watches(c *rest.Config) {
	c.Wrap(func(next http.RoundTripper) http.RoundTripper { return watches{next} })
}

type watches struct{ next http.RoundTripper }

// WrappedRoundTripper is how client-go finds out about the connections below.
func (p watches) WrappedRoundTripper() http.RoundTripper { return p.next }

func (p watches) RoundTrip(r *http.Request) (*http.Response, error) {
	watch := r.Method == http.MethodGet && r.URL.Query().Get("watch") == "true" // has no body to send again
	for {
		response, err := p.next.RoundTrip(r)
		var failed *net.OpError
		if !watch || !errors.As(err, &failed) || failed.Op != "dial" {
			return response, err
		}
		select {
		case <-r.Context().Done():
			return nil, err
		case <-time.After(time.Second + rand.N(time.Second)):
		}
	}
}
