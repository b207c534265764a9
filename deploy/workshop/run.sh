#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Does what README.md says, and what the original says where there is a copy of it
# beside the checkout, in a cluster of its own, which goes afterwards.
# usage: run.sh [FLAGS of go test, for instance -test.run TestPage]
set -euo pipefail
cd "$(dirname "$0")"
export SLUICE_CLUSTER=${SLUICE_CLUSTER:-workshop}
. ../cluster/env.sh

work=$(mktemp -d)
trap '"$here/down.sh"; rm -rf "$work"' EXIT
"$here/down.sh"
CGO_ENABLED=0 go test -c -tags e2e -o "$work/workshop.test" .
"$here/up.sh" 1 # one node, so that the app is on the one that clients reach
"$here/install.sh"
mkdir "$work/bin"
printf '#!/bin/sh\nexec "%s" kubectl "$@"\n' "$kubernetes" >"$work/bin/kubectl"
chmod +x "$work/bin/kubectl"
CGO_ENABLED=0 go build -o "$work/bin/" ../../cmd/sluice
"$here/in.sh" client env PATH="$work/bin:$PATH" KUBECONFIG="$run/pki/admin.kubeconfig" SCRIPTS="$here" \
	"$work/workshop.test" -test.v -test.timeout 20m "$@"
