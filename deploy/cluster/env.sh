# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: where things are.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/sluice
name=${SLUICE_CLUSTER:-cluster} # several clusters may run at once, under names of their own
run=$cache/$name                # all that a cluster has on disk
kubernetes=$cache/kubernetes-$(sed -n 's/^\tk8s.io\/kubernetes //p' "$here/kubernetes/go.mod")/kubernetes

control=10.88.0.1 # the control plane, and the client outside of the nodes
pool=10.88.0.100-10.88.0.199 # of addresses for Gateways
usable=10.88.0.150           # one of them
node_ip() { echo "10.88.0.$((10 + $1))"; }
pods_of() { echo "10.244.$1.0/24"; }

# hierarchies prints each cgroup hierarchy of this machine: its mount point and
# its controllers ("-" is cgroup2). Version 1, 2 and both together are fine.
hierarchies() {
	awk '{for (i = 1; $i != "-"; i++); t = $(i + 1); o = $(i + 3)}
		t == "cgroup2" {print $5, "-"}
		t == "cgroup"  {sub(/^rw,?/, "", o); print $5, o}' /proc/self/mountinfo
}

# join_cgroup PATH moves process PID to a group of that path, in every hierarchy.
join_cgroup() {
	local mount controllers
	while read -r mount controllers; do
		mkdir -p "$mount/$1"
		case ,$controllers, in *,cpuset,*)
			local group=$mount part
			for part in ${1//\// }; do
				for f in cpuset.cpus cpuset.mems; do cat "$group/$f" >"$group/$part/$f"; done
				group=$group/$part
			done ;;
		esac
		echo "$2" >"$mount/$1/cgroup.procs"
	done < <(hierarchies)
}
