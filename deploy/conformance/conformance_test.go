// SPDX-License-Identifier: Apache-2.0

// Package conformance runs the Gateway API's conformance suite against a
// cluster that serves the GatewayClass sluice: see run.sh.
//
// It is a module of its own, because the suite pins other versions of
// Kubernetes' libraries than the gateway.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }
