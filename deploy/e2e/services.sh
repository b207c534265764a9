#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Gives nodes an image with the servers of Debian's packages, sluice.test/services:1:
# PostgreSQL, MariaDB, redis and mosquitto, with the libraries and files they need.
# usage: services.sh NODE...
set -euo pipefail
. "$(dirname "$0")/../cluster/env.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/passwd" <<-P # PostgreSQL must not run as root, and wants a name
	root:x:0:0::/:/bin/sh
	app:x:999:999::/data:/bin/sh
P
postgres=/usr/lib/postgresql/15
mapfile -t files < <(
	printf '%s\n' /bin/sh $postgres/bin/postgres $postgres/bin/initdb /usr/sbin/mariadbd /usr/bin/redis-server /usr/sbin/mosquitto
	find $postgres/lib /usr/share/postgresql/15 /usr/share/mysql/english /usr/share/mysql/charsets -type f -not -path '*/bitcode/*')
mapfile -t libraries < <(ldd "${files[@]}" 2>/dev/null | grep -o '/[^ :]*\.so[^ :]*' | sort -u)
arguments=("$work/passwd=/etc/passwd")
for f in $(printf '%s\n' "${files[@]}" "${libraries[@]}" | sort -u); do arguments+=("$f=$f"); done
(cd "$repository/deploy/image" && CGO_ENABLED=0 go run . "$work/services.tar" sluice.test/services:1 "${arguments[@]}") >/dev/null
for node in "$@"; do "$here/in.sh" "$node" ctr -n k8s.io images import "$work/services.tar" >/dev/null; done
