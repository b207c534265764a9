#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs the Gateway API's conformance suite in a cluster of its own, which goes
# afterwards. The report is written beside this script only when all of the
# suite was run, without flags.
# usage: run.sh [FLAGS of the suite, for instance -test.run TestConformance/TCPRoute]
set -euo pipefail
cd "$(dirname "$0")"
export SLUICE_CLUSTER=${SLUICE_CLUSTER:-conformance}
. ../cluster/env.sh

work=$(mktemp -d)
trap '"$here/down.sh"; rm -rf "$work"' EXIT
"$here/down.sh"
CGO_ENABLED=0 go test -c -o "$work/conformance.test" .
"$here/up.sh" 2
"$here/install.sh"

version=$(git describe --tags --always --dirty)
report=$work/report.yaml
status=0
(cd "$work" && "$here/in.sh" client env KUBECONFIG="$run/pki/admin.kubeconfig" ./conformance.test -test.timeout 40m -test.v \
	--gateway-class=sluice --conformance-profiles=GATEWAY-HTTP,GATEWAY-TCP,GATEWAY-TLS,GATEWAY-UDP \
	--usable-address="$usable" --unusable-address=192.0.2.1 \
	--organization=sluice-gateway --project=sluice --url=https://github.com/sluice-gateway/sluice \
	--version="$version" --contact=https://github.com/sluice-gateway/sluice/issues \
	--report-output="$report" "$@") >"$work/log" 2>&1 || status=$?
grep -E '^    --- ' "$work/log" | sort -k2,2 -s | sed 's/^ *--- //' || true
grep -E '^    --- ' "$work/log" | awk '{n[$2]++} END {for (k in n) print k, n[k]}'
if [ "$status" != 0 ]; then
	keep=$(mktemp -t sluice-conformance.XXXXXX.log)
	cp "$work/log" "$keep"
	echo "run.sh: the suite failed; its log is in $keep" >&2
	exit "$status"
fi
[ $# != 0 ] || cp "$report" standard-v1.6.3-sluice-report.yaml
