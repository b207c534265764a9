// SPDX-License-Identifier: Apache-2.0

package controller

import "sigs.k8s.io/controller-runtime/pkg/client"

// LeasesLate makes a controller hear of Leases only when late is closed.
func (c *Controller) LeasesLate(late <-chan struct{}) {
	event := c.watch.event
	c.watch.event = func(k *kind, old, now client.Object) {
		if k.name == leaseKind {
			<-late
		}
		event(k, old, now)
	}
}
