#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command inside of the cluster.
# usage: in.sh control COMMAND …   the control plane's processes and network
#        in.sh client COMMAND …    the same network, this machine's processes: a client outside of the nodes
#        in.sh nodeN COMMAND …     all namespaces of a node
set -euo pipefail
. "$(dirname "$0")/env.sh"
[ -e "$run/init.pid" ] || { echo "in.sh: no cluster $name: start it with deploy/cluster/up.sh" >&2; exit 1; }
init=$(cat "$run/init.pid")
where=$1
shift
case $where in
client)  exec nsenter -t "$init" --net -- "$@" ;;
control) exec nsenter -t "$init" --net --mount --pid -- "$@" ;;
*)       exec nsenter -t "$init" --net --mount --pid -- \
		nsenter -t "$(cat "$run/pids/$where")" --net --mount --pid --uts --cgroup -- "$@" ;;
esac
