#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ends the cluster and removes all that it left: processes, cgroups, files. The
# build of Kubernetes stays in the cache.
set -euo pipefail
. "$(dirname "$0")/env.sh"

# With its first process the kernel kills all of a pid namespace, and the other
# namespaces end with their processes.
if [ -e "$run/init.pid" ]; then
	init=$(cat "$run/init.pid")
	if grep -qsaF deploy/cluster/controlplane.sh "/proc/$init/cmdline"; then # of whatever checkout, but not a process that got its number later
		kill -KILL "$init"
		while kill -0 "$init" 2>/dev/null; do sleep 0.1; done
	fi
fi
while read -r mount _; do
	[ -d "$mount/sluice-$name" ] || continue
	for _ in $(seq 100); do # the last processes may still be on their way out
		find "$mount/sluice-$name" -depth -type d -exec rmdir {} + 2>/dev/null && break
		sleep 0.1
	done
done < <(hierarchies)
rm -rf "$run"
