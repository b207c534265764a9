// SPDX-License-Identifier: Apache-2.0

package httproute

import (
	"errors"
	"time"
)

// errIdle is the end of an exchange that stood still.
var errIdle = errors.New("nothing moved for the idle timeout of the listener")

// looks is how often an exchange is looked at within the idle timeout.
const looks = 4

// watchIdle ends an exchange of HTTP/2 of which nothing has moved for limit. The
// watch over its connection does not see to that: other requests, or pings, keep it
// busy, and a body that stopped would hold a connection to the backend for ever.
func (x *exchange) watchIdle(limit time.Duration, cancel func(error)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	seen, still := int64(0), 0
	x.idle = time.AfterFunc(limit/looks, func() {
		moved := x.rec.moved()
		if x.h.Sending != nil {
			moved += x.h.Sending(x.in)
		}
		if moved != seen {
			seen, still = moved, 0
		} else {
			still++
		}
		if still < looks {
			x.mu.Lock()
			defer x.mu.Unlock()
			if !x.done {
				x.idle.Reset(limit / looks)
			}
			return
		}
		x.stalled.Store(!x.body.complete.Load())
		x.expire()
		cancel(errIdle)
	})
}
