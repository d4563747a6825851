#!/usr/bin/env bash
# Goal: launch/run tells the truth about how a job ended. Method: a shell program stands in for lombard and ends
# in every way a rank can end; statuses, output and run directories are compared.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export LOMBARD_BINARY=$root/tests/launch/stand_in.sh
failures=0

# expect NAME STATUS ARGS...: runs launch/run ARGS in scratch, output to out and err.
expect() {
  local name=$1 wanted=$2 got=0
  shift 2
  export LOMBARD_RUN_DIR=$scratch/run
  (cd "$scratch" && timeout 150 "$root/launch/run" "$@" > out 2> err < "${stdin:-/dev/null}") || got=$?
  check "$name: status $got, wanted $wanted" [ "$got" = "$wanted" ]
}
check() {
  local what=$1
  shift
  if "$@"; then return; fi
  echo "FAILED: $what" >&2
  sed 's/^/  | /' "$scratch/err" >&2
  failures=$((failures + 1))
}

expect "all ranks well" 0 -n 4 ok a "b c"
check "every rank spoke once" [ "$(sort "$scratch/out" | tr '\n' ';')" = "rank 0 of 4: a b c;rank 1 of 4: a b c;rank 2 of 4: a b c;rank 3 of 4: a b c;" ]
check "the command is printed" grep -q '^run: .*mpirun -n 4 .*stand_in.sh ok a b\\ c$' "$scratch/err"
expect "a wrong command line" 2 -n 2 usage
expect "one rank fails" 7 -n 3 one-fails
check "the failed rank is named" grep -q 'rank 1: exit 7' "$scratch/err"
expect "one rank is killed, the others end well" 1 -n 3 one-dies
check "the killed rank is named" grep -q 'rank 1: no exit status' "$scratch/err"
expect "a rank fails and the others linger" 5 --grace 1 -n 2 one-lingers
expect "mpirun's own status without recovery" 137 --no-recovery -n 2 one-dies
echo "from standard input" > "$scratch/in"
stdin=$scratch/in expect "rank 0 reads standard input" 0 -n 2 echo-stdin
check "standard input arrived" grep -qx 'from standard input' "$scratch/out"

expect "no rank count" 2 ok
expect "a rank count that is none" 2 -n x ok
expect "an unknown flag" 2 -n 1 --bogus ok
expect "a host file that is not there" 1 -n 1 --hostfile "$scratch/none" ok
LOMBARD_BINARY=$scratch/none expect "no binary" 1 -n 1 ok
check "the remedy is named" grep -q 'launch/build' "$scratch/err"

# A signal ends the job, long before its ranks would, and with a status of its own.
LOMBARD_RUN_DIR=$scratch/run "$root/launch/run" -n 2 sleep > "$scratch/out" 2> "$scratch/err" &
job=$!
until [[ -e $scratch/run/rank.0.sleeps && -e $scratch/run/rank.1.sleeps ]]; do
  kill -0 $job 2> /dev/null || break
  sleep 0.1
done
kill -TERM $job
wait $job
check "a terminated job does not succeed" [ $? -ne 0 ]

for script in run build test demo install_packages gpu_check bundle; do
  check "launch/$script --help" [ "$("$root/launch/$script" --help | head -c 6)" = "Usage:" ]
done
((failures == 0)) && echo "launch_test: ok"
exit $((failures != 0))
