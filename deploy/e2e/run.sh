#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of this folder in a cluster of their own, which goes afterwards.
# SLUICE_LONG=1 has the outages last for minutes. NODES=1 does for the tests that
# make smoke runs.
# usage: run.sh [FLAGS of go test, for instance -test.run TestChurn]
set -euo pipefail
cd "$(dirname "$0")"
export SLUICE_CLUSTER=${SLUICE_CLUSTER:-e2e}
. ../cluster/env.sh

work=$(mktemp -d)
trap '"$here/down.sh"; rm -rf "$work"' EXIT
"$here/down.sh"
CGO_ENABLED=0 go test -c -tags e2e -o "$work/e2e.test" .
[ "${NODES:-2}" = 1 ] || "$repository/deploy/packages.sh" services
"$here/up.sh" "${NODES:-2}"
"$here/install.sh"
"$here/in.sh" client env KUBECONFIG="$run/pki/admin.kubeconfig" \
	"$work/e2e.test" -test.v -test.timeout 60m "$@"
