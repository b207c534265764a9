#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds the images that the cluster's tests use.
# usage: images.sh DIR
set -euo pipefail
. "$(dirname "$0")/env.sh"
mkdir -p "$1"
out=$(cd "$1" && pwd)
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
export CGO_ENABLED=0

cd "$repository"
deploy/image/build.sh "$out/sluice.tar" >/dev/null
# The next version, for rollouts.
[ "${NODES:-2}" = 1 ] || VERSION=next IMAGE=sluice/sluice:next deploy/image/build.sh "$out/sluice-next.tar" >/dev/null
(cd deploy/image && go build -o "$bin/" .)
go build -trimpath -o "$bin/" ./deploy/cluster/pause ./deploy/e2e/keyedserver
"$bin/image" "$out/pause.tar" sluice.test/pause:1 "$bin/pause" >/dev/null
"$bin/image" "$out/keyedserver.tar" sluice.test/keyedserver:1 "$bin/keyedserver" >/dev/null

# For kubectl debug: bpftool and the libraries that it links.
bpftool=$(PATH=$PATH:/usr/sbin command -v bpftool)
files=("$bpftool=/bpftool")
for library in $(ldd "$bpftool" | grep -o '/[^ ]*'); do files+=("$library=$library"); done
"$bin/image" "$out/bpftool.tar" sluice.test/bpftool:1 "${files[@]}" >/dev/null

# The backends of the conformance suite, under the names that its manifests use.
cd "$repository/deploy/conformance"
suite=sigs.k8s.io/gateway-api/conformance
go build -trimpath -ldflags "-s -w" -o "$bin/" $suite/echo-basic ./dns
manifests=$(go list -m -f '{{.Dir}}' $suite)
suite_image() { # NAME BINARY
	grep -rhoE "image: [^ ]*/$1:[^ ]*" "$manifests/base" "$manifests/tests" | sort -u | while read -r _ reference; do
		"$bin/image" "$out/$(echo "$reference" | tr '/:' '__').tar" "$reference" "$2" >/dev/null
	done
}
suite_image echo-basic "$bin/echo-basic"
suite_image coredns "$bin/dns"
