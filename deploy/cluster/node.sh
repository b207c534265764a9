#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The first process of a node's namespaces: containerd, kubelet, kube-proxy.
# usage: node.sh NUMBER
. "$(dirname "$0")/env.sh"
i=$1
node=node$i
log=$run/log/$node
mkdir -p "$log" "$run/$node"
exec >"$log/node.log" 2>&1
set -euxo pipefail
hostname "$node"

# The node sees its own part of each cgroup hierarchy as the whole, so that BPF
# programs at the root of cgroup2 are for this node alone.
mount --make-rprivate /
groups=$(hierarchies)
umount -R /sys
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
[ "$(echo "$groups" | wc -l)" = 1 ] || mount -t tmpfs cgroup /sys/fs/cgroup
while read -r mount controllers; do
	mkdir -p "$mount"
	case $controllers in
	-) mount -t cgroup2 cgroup2 "$mount" ;;
	*) mount -t cgroup -o "$controllers" cgroup "$mount" ;;
	esac
done <<<"$groups"
# cgroup2 passes controllers on only from groups without processes.
join_cgroup node $$
while read -r mount controllers; do
	[ "$controllers" = - ] || continue
	for c in $(cat "$mount/cgroup.controllers"); do echo "+$c" >"$mount/cgroup.subtree_control"; done
done <<<"$groups"

for d in /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers /var/lib/cni /etc/cni/net.d; do
	mkdir -p "$d" "$run/$node$d"
	mount --bind "$run/$node$d" "$d"
done
mount -t tmpfs tmpfs /run
mount --make-rshared /

ip link set lo up
until ip link set eth0 up; do sleep 0.05; done
ip addr add "$(node_ip "$i")/24" dev eth0
ip addr add "fd00:88::$((10 + i))/64" dev eth0 nodad
ip route add default via "$control"
for other in $(seq "$NODES"); do
	[ "$other" = "$i" ] || ip route add "$(pods_of "$other")" via "$(node_ip "$other")"
done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.bridge.bridge-nf-call-iptables=1 || true

# fill TEMPLATE FILE
fill() { sed "s#@PODS@#$(pods_of "$i")#; s#@PKI@#$run/pki#; s#@NODE@#$node#" "$here/etc/$1" >"$2"; }
fill cni.json /etc/cni/net.d/10-pods.conflist
fill kubelet.yaml "$run/$node/kubelet.yaml"
fill kube-proxy.yaml "$run/$node/kube-proxy.yaml"

containerd -c "$here/etc/containerd.toml" >"$log/containerd.log" 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in "$run"/images/*.tar; do ctr -n k8s.io images import "$image"; done
until "$kubernetes" kubectl --kubeconfig "$run/pki/$node.kubeconfig" get --raw /readyz >/dev/null 2>&1; do sleep 0.2; done
"$kubernetes" kubelet --config "$run/$node/kubelet.yaml" --kubeconfig "$run/pki/$node.kubeconfig" \
	--hostname-override "$node" --node-ip "$(node_ip "$i")" >"$log/kubelet.log" 2>&1 &
"$kubernetes" kube-proxy --config "$run/$node/kube-proxy.yaml" --hostname-override "$node" >"$log/kube-proxy.log" 2>&1 &
set +x
while :; do wait; sleep 1; done # reaps what the namespace orphans
