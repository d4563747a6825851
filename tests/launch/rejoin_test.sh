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
port=$((21000 + $$ % 9000))
for i in {1..40}; do echo "{\"prompt\": [5, 6, $((i + 7))], \"max_tokens\": 100, \"ignore_eos\": true}"; done > "$scratch/in.jsonl"
common=(generate --model tests/data/tiny --threads 1 --kv-tokens 1024 --rendezvous "127.0.0.1:$port" --rate 8
  --input "$scratch/in.jsonl" --output "$scratch/out.jsonl")
launch/run -n 2 "${common[@]}" 2> "$scratch/job.log" &
job=$!
for _ in {1..400}; do
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
timeout 60 "$LOMBARD_BINARY" "${common[@]}" --join --rank 1 2> "$scratch/joiner.log"
joined=$?
wait $job
status=$?
((joined == 0)) || fail "the joiner ended with $joined"
((status == 0)) || fail "launch/run ended with $status"
grep -q 'rank 1 was lost' "$scratch/job.log" || fail "the loss is not told"
[[ $(grep -c token_ids "$scratch/out.jsonl") == 40 ]] || fail "not every request was answered"
echo "rejoin_test: ok"
