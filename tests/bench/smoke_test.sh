#!/usr/bin/env bash
# Usage: tests/bench/smoke_test.sh PROGRAM TEXT...
#
# Goal: a benchmark for GPUs runs to its end and gives what gpu_check is to show. Method: PROGRAM, on the emulated device and with
# tiny shapes, must print each TEXT or write it into its JSON, which must be complete.
set -u
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$1" --smoke --json "$scratch/json" > "$scratch/text"
status=$?
cat "$scratch/text"
((status == 0)) || { echo "FAILED: status $status"; exit 1; }
failures=0
for text in '"complete": true' "${@:2}"; do
  grep -qF -- "$text" "$scratch/text" "$scratch/json" || { echo "FAILED: it does not give: $text"; failures=1; }
done
exit "$failures"
