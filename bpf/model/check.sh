#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Verifies the models of the splice, every interleaving of them, and that each of
# their mutants fails: models.txt. A failure leaves its steps in a file.
# With SLUICE_FIGURES it keeps what was counted there, as package bench/figures does.
# usage: check.sh [LINE-PATTERN]
set -euo pipefail
figures=$(realpath -m "${SLUICE_FIGURES:-.}") # before the folder changes
mkdir -p "$figures"
cd "$(dirname "$0")"
here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failed=0 visited=0 mutants=0
while read -r model mutant flags; do
	[ "$mutant" = - ] || flags="$flags -DMUTANT_$mutant"
	# shellcheck disable=SC2086 # several flags
	spin -a $flags "$here/$model.pml" >out 2>&1 && cc -O2 -DSAFETY -DCOLLAPSE -DMEMLIM=8000 -o pan pan.c 2>>out || { cat out; exit 1; }
	./pan -m200000 -w24 >out
	states=$(sed -n 's/ *\([0-9]*\) states, stored$/\1/p' out)
	if grep -q 'max search depth too small\|out of memory\|limit reached' out || [ -z "$states" ]; then
		cat out
		exit 1
	fi
	verdict=holds wanted=holds
	grep -q 'errors: 0$' out || verdict=fails
	[ "$mutant" = - ] || { wanted=fails; mutants=$((mutants + 1)); }
	visited=$((visited + states))
	echo "$model $flags: $verdict, $states states"
	if [ $verdict != $wanted ]; then
		failed=$((failed + 1))
		if [ $verdict = fails ]; then # how it came to that
			grep '^pan:1' out
			spin -k "$model.pml.trail" -p -g $flags "$here/$model.pml" 2>&1 | tail -n 200 || true
		fi
	fi
done < <(grep -v '^#' "$here/models.txt" | grep -- "${1:-}")
[ $visited -gt 0 ] || { echo "models.txt has no such line" >&2; exit 1; }
if [ -n "${SLUICE_FIGURES:-}" ] && [ -z "${1:-}" ]; then
	printf '{"package": "bpf/model", "test": "check", "faults": %d, "failures": %d, "what": "mutants; %d states in all; %s", "passed": %s, "date": "%s", "kernel": "%s"}\n' \
		$mutants $failed $visited "$(sed -n 's/^# Bounds: //p' "$here/models.txt")" "$([ $failed = 0 ] && echo true || echo false)" "$(date -u +%F)" "$(uname -r)" >"$figures/bpf.model.check.json"
fi
[ $failed = 0 ]
