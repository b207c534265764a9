#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds Sluice's image as an OCI archive, with a bill of materials in it and
# beside it. Of the same sources, the same VERSION and the same Go it has the
# same digest, in whatever folder and on whatever machine.
# usage: build.sh OUT.tar [ARCHITECTURE ...]    (default: this machine's)
#   IMAGE    its name, default sluice/sluice:dev
#   VERSION  what "sluice version" says, default: git describe
set -euo pipefail
mkdir -p "$(dirname "$1")"
out=$(realpath "$1")
shift
cd "$(dirname "$0")/../.."
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
[ $# != 0 ] || set -- "$(go env GOARCH)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd deploy/image && go build -o "$work/image" .)
# What else in the environment would change the result.
unset GOEXPERIMENT GOAMD64 GOARM64 GODEBUG
export CGO_ENABLED=0 GOOS=linux GOFLAGS=-mod=readonly GOWORK=off
for arch; do
	# The packages of Kubernetes are large and not in the way of any byte: without
	# inlining they are 2.3 MB smaller; without the page (cmd/sluice/nopage.go) all
	# is 26 MB smaller.
	GOARCH=$arch go build -tags nopage -trimpath -buildvcs=false -pgo=bench/sluice.pgo -ldflags "-s -w -X main.release=$version" -gcflags='k8s.io/...=-l' \
		-o "$work/$arch/sluice" ./cmd/sluice
done
platforms=$(printf ',linux/%s' "$@")
"$work/image" -platforms "${platforms#,}" -roots -sbom "$version" "$out" "${IMAGE:-sluice/sluice:dev}" "$work/{arch}/sluice"
