#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs and removes Sluice by README.md's commands, in a cluster of its own,
# which goes afterwards.
# usage: run.sh [FLAGS of go test]
set -euo pipefail
cd "$(dirname "$0")"
export SLUICE_CLUSTER=${SLUICE_CLUSTER:-quickstart}
. ../cluster/env.sh

work=$(mktemp -d)
trap '"$here/down.sh"; rm -rf "$work"' EXIT
"$here/down.sh"
CGO_ENABLED=0 go test -c -tags e2e -o "$work/quickstart.test" .
"$here/up.sh" 2
crds=$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)/config/crd/experimental
"$here/kubectl.sh" apply --server-side -k "$crds" >/dev/null
"$here/kubectl.sh" wait --for=condition=Established --timeout=60s crd --all >/dev/null
mkdir "$work/bin"
printf '#!/bin/sh\nexec "%s" kubectl "$@"\n' "$kubernetes" >"$work/bin/kubectl"
chmod +x "$work/bin/kubectl"
"$here/in.sh" client env PATH="$work/bin:$PATH" KUBECONFIG="$run/pki/admin.kubeconfig" SCRIPTS="$here" POOL="$usable" \
	"$work/quickstart.test" -test.v -test.timeout 10m "$@"
