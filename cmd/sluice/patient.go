// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// patient sends watches. While nobody answers at the API server's address a
// watch waits and tries again every second or two, where it would fail
// otherwise: client-go's informers wait ever longer after failures, up to a
// minute, and would miss an API server for so long that is back.
type patient struct{ next http.RoundTripper }

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
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
