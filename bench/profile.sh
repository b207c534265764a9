#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes bench/sluice.pgo anew, what builds are guided by: what the gateway spends its
# time on in a few scenarios of the bench.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SLUICE_PROFILES=$work/profiles
mkdir "$SLUICE_PROFILES"
CGO_ENABLED=0 go build -tags profile -trimpath -o "$work/sluice" ./cmd/sluice
go run ./bench -rounds 3 -peers spliced,relay -sluice "$work/sluice" \
	-scenarios "upload,download,100 B x 16,handshake ECDSA,handshake RSA,handshake resumed"
find "$SLUICE_PROFILES" -size -2k -delete # of those that only told their version
go tool pprof -proto "$SLUICE_PROFILES"/* >"$work/sluice.pgo"
mv "$work/sluice.pgo" bench/sluice.pgo
