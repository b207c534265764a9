#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the cluster's keys: a CA, the API server's certificate, the key that
# signs tokens, and a kubeconfig for each component.
# usage: pki.sh DIR
set -euo pipefail
. "$(dirname "$0")/env.sh"
umask 077
mkdir -p "$1"
cd "$1"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
# sign NAME SUBJECT EXTENSIONS
sign() {
	key "$1"
	openssl req -new -key "$1.key" -subj "$2" |
		openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile <(printf '%b' "$3") -out "$1.crt" 2>/dev/null
}
client() {
	sign "$1" "$2" 'extendedKeyUsage=clientAuth\n'
	cat >"$1.kubeconfig" <<-K
	apiVersion: v1
	kind: Config
	clusters: [{name: cluster, cluster: {server: "https://$control:6443", certificate-authority: $PWD/ca.crt}}]
	users: [{name: user, user: {client-certificate: $PWD/$1.crt, client-key: $PWD/$1.key}}]
	contexts: [{name: context, context: {cluster: cluster, user: user}}]
	current-context: context
	K
}

key ca
openssl req -x509 -new -key ca.key -subj /CN=sluice-test-ca -days 30 -out ca.crt
key accounts
service=DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:10.96.0.1
sign kube-apiserver /CN=kube-apiserver "extendedKeyUsage=serverAuth\nsubjectAltName=$service,IP:$control\n"
sign kubelet-client /O=system:masters/CN=kube-apiserver 'extendedKeyUsage=clientAuth\n'
client admin /O=system:masters/CN=admin
client kube-controller-manager /CN=system:kube-controller-manager
client kube-scheduler /CN=system:kube-scheduler
client kube-proxy /CN=system:kube-proxy
for i in $(seq "$NODES"); do client "node$i" "/O=system:nodes/CN=system:node:node$i"; done
