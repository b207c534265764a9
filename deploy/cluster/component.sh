#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Starts, kills, freezes and thaws a component of the control plane. Runs in its
# namespaces: deploy/cluster/in.sh control deploy/cluster/component.sh …
# usage: component.sh start|kill|freeze|thaw etcd|kube-apiserver|kube-controller-manager|kube-scheduler
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$run/pki"
component=$2

ours="--kubeconfig=$component.kubeconfig --authentication-kubeconfig=$component.kubeconfig
	--authorization-kubeconfig=$component.kubeconfig --leader-elect=false --bind-address=127.0.0.1"
case $component in
etcd) arguments="--data-dir=$run/etcd --unsafe-no-fsync --log-level=warn
	--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379
	--listen-peer-urls=http://127.0.0.1:2380" ;;
kube-apiserver) arguments="--etcd-servers=http://127.0.0.1:2379 --advertise-address=$control
	--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged
	--service-cluster-ip-range=10.96.0.0/16 --client-ca-file=ca.crt
	--tls-cert-file=kube-apiserver.crt --tls-private-key-file=kube-apiserver.key
	--kubelet-client-certificate=kubelet-client.crt --kubelet-client-key=kubelet-client.key
	--kubelet-preferred-address-types=InternalIP
	--service-account-issuer=https://kubernetes.default.svc
	--service-account-key-file=accounts.key --service-account-signing-key-file=accounts.key" ;;
kube-controller-manager) arguments="$ours --use-service-account-credentials
	--service-account-private-key-file=accounts.key --root-ca-file=ca.crt" ;;
kube-scheduler) arguments=$ours ;;
*) echo "component.sh: no component $component" >&2; exit 2 ;;
esac

pid() { cat "$run/pids/$component"; }
case $1 in
start)
	# shellcheck disable=SC2086
	setsid "$kubernetes" "$component" $arguments </dev/null >>"$run/log/$component.log" 2>&1 &
	echo $! >"$run/pids/$component" ;;
kill)   kill -KILL "$(pid)" ;;
freeze) kill -STOP "$(pid)" ;;
thaw)   kill -CONT "$(pid)" ;;
*)      echo "component.sh: no verb $1" >&2; exit 2 ;;
esac
