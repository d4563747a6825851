#!/usr/bin/env bash
# Goal: a rank that is killed, and replaced by one that joins, does not make the job fail. Method: launch/run with
# two ranks; rank 1 is killed once an answer is there, then somebody joins in its place, with launch/run's own environment.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
export LOMBARD_BINARY=$1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export LOMBARD_RUN_DIR=$scratch/run
fail() {
  echo "FAILED: $*" >&2
  cat "$scratch"/*.log >&2
  exit 1
}

cd "$root" || exit 1
port=$((28000 + $$ % 4700))  # as in tests/fabric/processes_test.sh
request() { echo "{\"prompt\": [$1], \"max_tokens\": $2, \"ignore_eos\": true}"; }
{
  request 5,6,7 5
  # One rank alone cannot hold it: once rank 1 is killed it waits for somebody who joins.
  request "$(for _ in {1..4}; do seq -s, 5 504; done | paste -sd,),$(seq -s, 5 204)" 1400
  for i in {1..38}; do request "5,6,$((i + 7))" 100; done
} > "$scratch/in.jsonl"
common=(generate --model tests/data/tiny --threads 1 --kv-tokens 2048 --rendezvous "127.0.0.1:$port" --rate 8 --dead-after 30s --recovery-wait 10m
  --input "$scratch/in.jsonl" --output "$scratch/out.jsonl")
launch/run -n 2 "${common[@]}" 2> "$scratch/job.log" &
job=$!
for _ in {1..3000}; do
  [[ -s $scratch/out.jsonl ]] && break
  kill -0 $job 2> /dev/null || fail "the job ended early"
  sleep 0.1
done
victim=''
for pid in $(pgrep -x lombard); do
  if tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -qxF "LOMBARD_RUN_DIR=$LOMBARD_RUN_DIR" &&
    tr '\0' '\n' 2> /dev/null < "/proc/$pid/environ" | grep -qx OMPI_COMM_WORLD_RANK=1; then victim=$pid; fi
done
[[ -n $victim ]] || fail "rank 1 was not found"
kill -9 "$victim"
while true; do  # until rank 0 knows of the loss, the rank is taken
  timeout 240 "$LOMBARD_BINARY" "${common[@]}" --join --rank 1 2> "$scratch/joiner.log"
  joined=$?
  grep -q 'rank 1 is taken' "$scratch/joiner.log" || break
  kill -0 $job 2> /dev/null || break
done
wait $job
status=$?
((joined == 0)) || fail "the joiner ended with $joined"
((status == 0)) || fail "launch/run ended with $status"
grep -q 'rank 1 was lost' "$scratch/job.log" || fail "the loss is not told"
[[ $(grep -c token_ids "$scratch/out.jsonl") == 40 ]] || fail "not every request was answered"
echo "rejoin_test: ok"
