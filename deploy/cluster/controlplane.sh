#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The first process of the cluster's namespaces: a bridge that joins the nodes,
# the nodes, and the control plane.
set -euxo pipefail
. "$(dirname "$0")/env.sh"

mount --make-rprivate /
mount --make-rshared /
ip link set lo up
ip link add br0 type bridge
ip addr add "$control/24" dev br0
ip addr add fd00:88::1/64 dev br0 nodad
ip link set br0 up
sysctl -qw net.ipv4.ip_forward=1

for i in $(seq "$NODES"); do
	(
		join_cgroup "sluice-$name/node$i" "$BASHPID"
		exec unshare --net --mount --uts --pid --cgroup --fork --kill-child --mount-proc "$here/node.sh" "$i"
	) &
	unshared=$!
	until init=$(pgrep -P "$unshared" -f node.sh); do sleep 0.05; done
	echo "$init" >"$run/pids/node$i"
	ip link add "node$i" type veth peer name eth0 netns "$init"
	ip link set "node$i" master br0 up
	ip route add "$(pods_of "$i")" via "$(node_ip "$i")"
done
start() { for c in "$@"; do "$here/component.sh" start "$c"; done; }
start etcd kube-apiserver
until "$kubernetes" kubectl --kubeconfig "$run/pki/admin.kubeconfig" get --raw /readyz >/dev/null 2>&1; do sleep 0.2; done
start kube-controller-manager kube-scheduler
while :; do wait; sleep 1; done # reaps what the namespace orphans
