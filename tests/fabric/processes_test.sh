#!/usr/bin/env bash
# Usage: processes_test.sh FABRIC_RANK SCENARIO RANKS [FLAGS...]
#
# Starts RANKS plain processes that meet at a port of rank 0, without any launcher, and checks how each of them ends.
set -euo pipefail
program=$1 scenario=$2 ranks=$3
shift 3
# Below the kernel's own ports and beside those of tests/support/free_port.cc; scripts that run at the same time differ.
port=$((28000 + $$ % 4700))
pids=()
for ((rank = 0; rank < ranks; rank++)); do
  "$program" "$scenario" --rank "$rank" --size "$ranks" --rendezvous "127.0.0.1:$port" "$@" &
  pids+=($!)
done
failed=0
for ((rank = 0; rank < ranks; rank++)); do
  wanted=0
  # The last rank is the victim and ends by SIGKILL.
  if [[ $scenario != ladder ]] && ((rank == ranks - 1)); then wanted=137; fi
  status=0
  wait "${pids[rank]}" 2> /dev/null || status=$?
  if ((status != wanted)); then
    echo "rank $rank ended with $status, not $wanted"
    failed=1
  fi
done
exit $failed
