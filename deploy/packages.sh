#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that a task needs and that are missing.
# usage: deploy/packages.sh demo|test|generate|bench|cluster|services|servers|protocol|kernels|model
set -eu

case "${1:-}" in
demo)     want="curl openssl redis-server redis-tools iproute2 util-linux bpftool jq" ;;
# Clients, backends and peers that the tests meet; none of them is optional.
test)     want="curl openssl gnutls-bin redis-server redis-tools iproute2 bpftool util-linux libcap2-bin nftables
	haproxy nginx libnginx-mod-stream stunnel4 hitch postgresql-15 mosquitto mosquitto-clients chromium prometheus
	python3 qemu-user-static" ;;
generate) want="clang-14 llvm-14" ;;
bench)    want="haproxy nginx libnginx-mod-stream stunnel4 hitch iproute2 nftables
	postgresql-15 redis-server redis-tools mosquitto mosquitto-clients" ;;
cluster)  want="containerd runc containernetworking-plugins iptables nftables conntrack iproute2 openssl procps
	util-linux bpftool ca-certificates" ;;
# Servers for images, and their clients: deploy/e2e/services.sh.
services) want="postgresql-15 postgresql-client-15 mariadb-server-core mariadb-client-core redis-server redis-tools
	mosquitto mosquitto-clients socat" ;;
model)    want="spin gcc libc6-dev" ;;
kernels)  want="qemu-system-x86 qemu-system-arm xz-utils" ;;
# Servers and clients of the matrix in deploy/servers.
servers)  want="redis-server redis-tools postgresql-15 postgresql-client-15 mariadb-server-core mariadb-client-core
	mosquitto mosquitto-clients python3 python3-paho-mqtt nats-server rabbitmq-server python3-pika nginx curl
	default-jdk-headless nodejs haproxy openssh-server openssh-client openssl socat iproute2 util-linux" ;;
# What the attackers of deploy/protocol are run with, and fetched.
protocol) want="python3 python3-venv dpkg-dev curl openssl gnutls-bin default-jdk-headless nodejs" ;;
*)        echo "usage: $0 demo|test|generate|bench|cluster|services|servers|protocol|kernels|model" >&2; exit 2 ;;
esac

missing=""
for p in $want; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "missing Debian packages:$missing (as root: apt-get install$missing)" >&2
	exit 0
fi
# A server package must not start its server: the tests run their own.
policy=/usr/sbin/policy-rc.d
made=""
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
fi
trap '[ -z "$made" ] || rm -f "$policy"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
