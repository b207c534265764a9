#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs into a cluster that is up: the CRDs of the Gateway API (experimental
# channel) and Sluice as deploy/kubernetes has it, with a pool of addresses that
# the client outside of the nodes reaches. Installed again it is brought up to
# date, from the image that the nodes have.
# usage: install.sh
set -euo pipefail
. "$(dirname "$0")/env.sh"
kubectl="$here/kubectl.sh"

cd "$repository"
crds=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/experimental
"$kubectl" apply --server-side --force-conflicts -k "$crds" >/dev/null
"$kubectl" wait --for=condition=Established --timeout=60s crd --all >/dev/null
"$kubectl" apply --server-side --force-conflicts -k deploy/kubernetes >/dev/null
# The CRD of GatewayConfig is among what was just applied.
"$kubectl" wait --for=condition=Established --timeout=60s crd --all >/dev/null
"$kubectl" apply --server-side --force-conflicts -f - >/dev/null <<YAML
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: sluice, namespace: sluice-system}
spec: {addresses: {mode: Pool, pools: ["$pool"]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec:
  controllerName: sluice.dev/gateway-controller
  parametersRef: {group: sluice.dev, kind: GatewayConfig, name: sluice, namespace: sluice-system}
YAML
"$kubectl" -n sluice-system rollout status deployment/sluice-controller --timeout=120s
"$kubectl" -n sluice-system rollout status daemonset/sluice-agent --timeout=120s
