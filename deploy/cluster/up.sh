#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Starts a Kubernetes cluster on this machine, without a registry or Docker:
# each node in network, mount, pid, uts and cgroup namespaces of its own.
# usage: up.sh [NODES]     (default 2; as root)
set -euo pipefail
. "$(dirname "$0")/env.sh"
export NODES=${1:-2}

[ "$(id -u)" = 0 ] || { echo "up.sh: namespaces and containers need root" >&2; exit 1; }
if [ -e "$run/init.pid" ]; then
	echo "up.sh: cluster $name is up already: end it with deploy/cluster/down.sh" >&2
	exit 1
fi
"$repository/deploy/packages.sh" cluster
"$here/kubernetes/build.sh"
"$here/down.sh"
mkdir -p "$run/log" "$run/pids" "$run/images"
"$here/pki.sh" "$run/pki"
"$here/images.sh" "$run/images"

(
	join_cgroup "sluice-$name/control" "$BASHPID"
	exec setsid unshare --net --mount --pid --fork --kill-child --mount-proc \
		"$here/controlplane.sh" </dev/null >"$run/log/controlplane.log" 2>&1
) &
outer=$!
until init=$(pgrep -P "$outer" -f controlplane.sh); do
	kill -0 "$outer" || { cat "$run/log/controlplane.log" >&2; exit 1; }
	sleep 0.1
done
echo "$init" >"$run/init.pid"

ready() { "$here/kubectl.sh" get nodes -o 'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' 2>/dev/null | grep -c True; }
for _ in $(seq 600); do
	if [ "$(ready)" = "$NODES" ]; then
		"$here/kubectl.sh" get nodes
		exit 0
	fi
	kill -0 "$init" 2>/dev/null || break
	sleep 0.3
done
tail -n 5 "$run"/log/*.log "$run"/log/*/*.log >&2
echo "up.sh: the nodes are not Ready; the logs are in $run/log" >&2
exit 1
