#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Upgrades from another version of this repository, a tag or commit, and rolls back, ten
# times each, under connections. As root.
# usage: deploy/upgrade/run.sh VERSION
set -eu
cd "$(dirname "$0")/../.."
version=${1:?usage: make upgrade BEFORE=VERSION, a tag or commit of this repository}
version=$(git describe --always --tags "$version^{commit}")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
git archive "$version" | tar -x -C "$tree"
(cd "$tree" && CGO_ENABLED=0 go build -o "$tree/before" ./cmd/sluice)
SLUICE_REQUIRE_ROOT=1 SLUICE_BEFORE=$tree/before SLUICE_BEFORE_VERSION=$version \
	go test -count=1 -timeout 20m -v -run TestAnUpgradeAndItsRollbackRefuseNobody ./cmd/sluice
