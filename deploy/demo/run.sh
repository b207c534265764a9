#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The tour of Sluice on one machine: a certificate, an HTTP echo and a redis in
# a network namespace of their own, the gateway in another, and real clients.
# As root everything runs; without root the namespaces and the splice are left
# out, and it says so. Nothing stays behind.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$PWD
dir=$(mktemp -d "${TMPDIR:-/tmp}/sluice-demo.XXXXXX")
pids=()
pins=/sys/fs/bpf/sluice-demo gateway_ns=sluice-demo-gw backend_ns=sluice-demo-be

clean_up() {
	set +e
	for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null; done
	for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null; done
	if [ "$privileged" = yes ]; then
		ip netns del $gateway_ns 2>/dev/null
		ip netns del $backend_ns 2>/dev/null
	fi
	rm -rf "$dir"
}

say()  { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }
# wait_for runs a command until it succeeds, for 10 seconds at most, and not
# longer than the gateway lives.
wait_for() {
	local what=$1; shift
	for _ in $(seq 200); do
		"$@" >/dev/null 2>&1 && return
		kill -0 "$gateway" 2>/dev/null || { cat "$dir/gateway.log" >&2; fail "the gateway has ended"; }
		sleep 0.05
	done
	tail -n 20 "$dir/gateway.log" >&2
	fail "$what did not happen within 10 seconds"
}
# port prints the first port from one on that nobody listens on.
port() {
	local p=$1
	while [ -n "$(ss -Hltn "sport = :$p")" ]; do p=$((p + 1)); done
	echo "$p"
}

if [ "$(id -u)" = 0 ]; then
	privileged=yes http=80 https=443 address=10.231.43.1 backend=10.231.43.2 redis_port=6379 echo_port=3000
	# Not ip netns exec: that hides bpffs and cgroup2 behind a new /sys.
	in_gateway="nsenter --net=/run/netns/$gateway_ns" in_backend="nsenter --net=/run/netns/$backend_ns"
else
	privileged=no http=$(port 8080) https=$(port 8443) address=127.0.0.1 backend=127.0.0.1
	redis_port=$(port 16379) echo_port=$(port 13000)
	in_gateway="" in_backend=""
fi
trap clean_up EXIT
trap 'exit 130' INT TERM

if [ "$privileged" = yes ]; then
	mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf 2>/dev/null || true
	say "Two hosts: the gateway and the backends, each a network namespace"
	ip netns del $gateway_ns 2>/dev/null || true
	ip netns del $backend_ns 2>/dev/null || true
	show ip netns add $gateway_ns
	show ip netns add $backend_ns
	show ip link add veth0 netns $gateway_ns type veth peer name veth0 netns $backend_ns
	for ns in "$gateway_ns $address" "$backend_ns $backend"; do
		set -- $ns
		ip -n "$1" addr add "$2/24" dev veth0
		ip -n "$1" link set veth0 up
		ip -n "$1" link set lo up
	done
else
	say "Not root: no namespaces and no splice; the gateway runs in relay mode"
fi

say "The backends: an HTTP echo and a redis"
go build -o "$dir/echo" ./deploy/demo/echo
POD_NAME=backend-ssl-offload-0 NAMESPACE=default $in_backend "$dir/echo" -listen "$backend:$echo_port" &
pids+=($!)
$in_backend redis-server --bind "$backend" --port $redis_port --save '' --dir "$dir" --protected-mode no >"$dir/redis.log" 2>&1 &
pids+=($!)

say "A root certificate, and one for www.example.com (RSA, version 1, serial 0, no SAN)"
cd "$dir"
show openssl req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -subj '/O=example Inc./CN=example.com' -keyout example.com.key -out example.com.crt 2>/dev/null
show openssl req -out www.example.com.csr -newkey rsa:2048 -nodes -keyout www.example.com.key -subj "/CN=www.example.com/O=example organization" 2>/dev/null
show openssl x509 -req -days 365 -CA example.com.crt -CAkey example.com.key -set_serial 0 -in www.example.com.csr -out www.example.com.crt 2>/dev/null
say "One for redis.example.com, ECDSA as one would choose today"
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout redis.key -out redis.csr -subj /CN=redis.example.com 2>/dev/null
openssl x509 -req -days 365 -CA example.com.crt -CAkey example.com.key -CAcreateserial -in redis.csr -out redis.crt \
	-extfile <(echo subjectAltName=DNS:redis.example.com) 2>/dev/null

say "A folder of the YAML that kubectl apply takes"
mkdir conf
sed -e "s/value: 127.0.0.1/value: $address/; s/\[\"127.0.0.1\"\]/[\"$backend\"]/" \
	-e "s/port: 8080/port: $http/; s/port: 8443/port: $https/; s/port: 13000/port: $echo_port/; s/port: 16379/port: $redis_port/" \
	"$root/deploy/demo/objects.yaml" >conf/objects.yaml
cp "$root/deploy/demo/httproute.yaml" conf/
secret() { # NAME CERT KEY, as kubectl create secret tls does
	printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\ntype: kubernetes.io/tls\ndata:\n  tls.crt: %s\n  tls.key: %s\n' \
		"$1" "$(base64 -w0 <"$2")" "$(base64 -w0 <"$3")"
}
secret example-cert www.example.com.crt www.example.com.key >conf/example-cert.yaml
secret redis-cert redis.crt redis.key >conf/redis-cert.yaml
show ls conf

say "The gateway"
echo "\$ sluice run -admin $dir/admin.sock -access-log $dir/access.log conf"
$in_gateway "$root/build/sluice" run -admin "$dir/admin.sock" -metrics off -pin-dir $pins \
	-access-log "$dir/access.log" conf >gateway.log 2>&1 &
gateway=$!
pids+=("$gateway")
sluice() { "$root/build/sluice" "$1" -admin "$dir/admin.sock" "${@:2}"; }
wait_for "sluice status" sluice status
cat gateway.log

say "curl, through the HTTPRoute"
get() { $in_gateway curl -sS "$@" -HHost:www.example.com --resolve "www.example.com:$https:$address" --cacert example.com.crt "https://www.example.com:$https/get"; }
verify() { # PATTERN in the output of curl -v
	get -v >curl.out 2>&1 || { cat curl.out; fail "curl failed"; }
	for pattern in "$@"; do grep -q "$pattern" curl.out || { cat curl.out; fail "curl does not show: $pattern"; }; done
	grep -E '^\* (ALPN|SSL conn| SSL cert| subject)|^< HTTP|"(path|proto|pod)"|X-[FRE]' curl.out
}
echo "\$ curl -v -HHost:www.example.com --resolve www.example.com:$https:$address --cacert example.com.crt https://www.example.com:$https/get"
verify 'SSL certificate verify ok' '^< HTTP/2 200' 'X-Forwarded-Proto' 'backend-ssl-offload'

say "Delete the HTTPRoute: the TCPRoute of the same listener carries the decrypted bytes"
show rm conf/httproute.yaml
route_gone() { sluice status >status.out && ! grep -q HTTPRoute status.out; }
wait_for "the removal of the HTTPRoute" route_gone
verify 'SSL certificate verify ok' '^< HTTP/1.1 200' 'backend-ssl-offload'
! grep -q 'X-Forwarded-Proto' curl.out || fail "the TCPRoute changed the request"

say "redis behind a TLSRoute, on the same port by its SNI name"
redis() { $in_gateway redis-cli -h "$address" -p "$https" --tls --sni redis.example.com --cacert example.com.crt "$@"; }
echo "\$ redis-cli -h $address -p $https --tls --sni redis.example.com --cacert example.com.crt ..."
[ "$(redis set greeting 'through the gateway')" = OK ] || fail "redis-cli set"
redis get greeting | tee redis.out
grep -q 'through the gateway' redis.out || fail "redis-cli get"
# Enough round trips for both directions to earn the redirect.
for i in $(seq 50); do echo "set key:$i $i"; done | redis >/dev/null

say "The access log"
logged() { [ "$(jq -r 'select(.sni=="redis.example.com") | .sni' access.log | wc -l)" -ge 3 ]; }
wait_for "the access log" logged
cat access.log

say "A connection that is open now"
$in_gateway redis-cli -h "$address" -p "$https" --tls --sni redis.example.com --cacert example.com.crt subscribe news >redis.news 2>&1 &
subscriber=$!
pids+=("$subscriber")
heard() { redis publish news "extra, extra" >/dev/null; [ "$(grep -c extra redis.news)" -ge 6 ]; }
wait_for "redis publish" heard
show sluice conns

if [ "$privileged" = yes ] && ! grep -q 'relay mode' gateway.log; then
	path() { grep -qx spliced <(jq -r "select(.route==\"$1\") | .path" access.log) || fail "the connection of $1 was not spliced"; }
	path TCPRoute/default/backend-ssl-offload
	path TLSRoute/default/redis
	say "What the kernel sees of it"
	for map in sl_endpoints sl_flows sl_outcomes; do
		show bpftool map dump pinned "$pins/$map"
	done
fi
kill "$subscriber"

say "One screen of status, with what is worth knowing"
show sluice status || true

say "SIGTERM: the gateway drains and ends"
kill -TERM "$gateway"
wait "$gateway" || fail "the gateway ended with an error"
tail -n 3 gateway.log
say "Done: curl verified the certificate, redis answered, the bytes were the right ones."
