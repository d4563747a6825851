#!/usr/bin/env bash
# Goal: launch/gpu_check runs its steps in order and within its time, and succeeds only where all of them passed. Method: a folder
# like a bundle whose programs, nvidia-smi and compute-sanitizer are scripts that note that they ran and end as the case wants.
# shellcheck disable=SC2016,SC2317  # the programs written here expand for themselves; functions are called through `check`
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0
mkdir -p "$scratch"/{tools,b/launch,b/lib,b/bin,b/tests/data}
cp "$root/launch/gpu_check" "$root/launch/lib.sh" "$scratch/b/launch/"
touch "$scratch/b/lib/start"
echo abc1234 > "$scratch/b/COMMIT"
export RAN=$scratch/ran
program() {  # program PATH BODY
  printf '#!/usr/bin/env bash\necho "%s" >> "$RAN"\n%s\n' "$(basename "$1")" "$2" > "$scratch/$1"
  chmod +x "$scratch/$1"
}
# Two cases; the second is undecided at its last token.
for model in tiny tiny-bf16; do
  printf '%s\n' '{"cases":[' '{"prompt_ids":[1,2],"greedy_ids":[7,8,9],"greedy_text":"x","top1_top2_gap":[5,5,1e-1]},' \
    '{"prompt_ids":[3],"greedy_ids":[4,5],"greedy_text":"y","top1_top2_gap":[5,0.0001]}]}' > "$scratch/b/tests/data/$model-golden.json"
done
# The rank's answers come from ANSWERS, its report from REMOTE.
lombard='
[[ $1 == doctor ]] && { echo "ok       GPUs          $GPUS"; exit 0; }
[[ $* == *--help* ]] && { echo "$HELP"; exit 0; }
echo "$SLURM_PROCID of $SLURM_NTASKS at $SLURM_STEP_NODELIST, ${SLURM_STEP_NUM_TASKS-}${PMIX_RANK-}${OMPI_COMM_WORLD_SIZE-}: $*" >> "$RAN.ranks"
rank=$SLURM_PROCID
while (($#)); do
  case $1 in --output) out=$2 ;; --report) report=$2 ;; --input) cp "$2" "$RAN.input" ;; esac
  shift
done
((rank == 0)) || exit 0
mkdir -p "$report"
printf "%s\n" "$ANSWERS" > "$out"
echo "\"remote_steps\": $REMOTE," > "$report/report.json"'
good() {  # a bundle and a host where everything passes
  rm -rf "$scratch"/b/bin/* "$scratch"/b/compute-sanitizer "$scratch"/tools/*
  export GPUS="NVIDIA H200" HELP=--device REMOTE=3 LOMBARD_GPU_CHECK_SECONDS=600
  export ANSWERS='{"token_ids":[7,8,9],"x":[1]}
{"token_ids":[4,6],"x":[1]}'
  program tools/nvidia-smi 'echo "NVIDIA \"H200\", 570.1"'
  program tools/compute-sanitizer '[[ $1 == --version ]] || { echo "$*" >> "$RAN.sanitizer"; exit "${SANITIZER:-0}"; }'
  program b/lombard "$lombard"
  program b/bin/gpu_kernels_test 'echo "[  PASSED  ] 12 tests."'
  program b/bin/gpu_machine_test 'echo "[  PASSED  ] 3 tests."'
  program b/bin/gpu_machine_test_emulated 'exit 1'
  program b/bin/gpu_attention_bench 'echo "| 32 x 8192 | 12.3 |"; echo "{\"rows\": [1]}" > "$2"'
}
check() {
  local what=$1
  shift
  if "$@"; then return; fi
  echo "FAILED: $what" >&2
  sed 's/^/  | /' "$scratch/stdout" "$scratch/stderr" >&2
  failures=$((failures + 1))
}
expect() {  # expect NAME STATUS: runs gpu_check in scratch
  local got=0
  rm -rf "$scratch/out" "$RAN"*
  touch "$RAN"
  (cd "$scratch" && PATH=$scratch/tools:$PATH timeout 300 b/launch/gpu_check out > stdout 2> stderr) || got=$?
  check "$1: status $got, wanted $2" [ "$got" = "$2" ]
}
says() { grep -qE "$1" "$scratch/out/summary.txt"; }
json() { tr -d '\n' < "$scratch/out/gpu_check.json" | grep -qF -- "$1"; }  # the text is in it

good
OMPI_COMM_WORLD_SIZE=4 PMIX_RANK=1 SLURM_STEP_NUM_TASKS=9 expect "all well, inside a job of another launcher" 0
check "the order" [ "$(uniq "$RAN" | tr '\n' ' ')" = "nvidia-smi lombard gpu_kernels_test gpu_machine_test compute-sanitizer lombard gpu_attention_bench " ]
check "two ranks with the device, by the environment" [ "$(grep -c -- '^[01] of 2 at 127.0.0.1, : .*--device cuda' "$RAN.ranks")" = 4 ]
check "the sanitizer leaves cuBLASLt out" [ "$(grep -cF -- '/bin/gpu_kernels_test --gtest_filter=*/0-*CublasLt*' "$RAN.sanitizer")" = 2 ]
check "the prompts" [ "$(head -1 "$RAN.input")" = '{"prompt": [1,2], "max_tokens": 3, "temperature": 0, "ignore_eos": true}' ]
check "tests are counted" says '^passed .* gpu_kernels_test .*12 passed'
check "goldens are counted" says '^passed .* lending-bf16 .*2 of 2 answers'
check "JSON: the start" json '{"gpus": "NVIDIA \"H200\", 570.1", "commit": "abc1234", "ok": true, "seconds": '
check "JSON: all steps" [ "$(grep -c '^  {"name": .*"result": "passed", "seconds": [0-9]*, "detail": "' "$scratch/out/gpu_check.json")" = 9 ]
check "JSON: figures" json '"benchmarks": {  "gpu_attention_bench": {"rows": [1]}}}'
check "the benchmarks' tables" says '^\| 32 x 8192 \| 12.3 \|$'

rm "$scratch/tools/nvidia-smi"
program tools/nvidia-smi 'echo "No devices were found"; exit 6'
expect "no GPU" 1
check "no GPU: said" grep -q 'no GPU.*Nothing was checked' "$scratch/stderr"
check "no GPU: nothing ran" [ "$(cat "$RAN")" = nvidia-smi ]

good
program b/bin/gpu_machine_test 'exit 77'
expect "a program of which nothing ran" 1
check "it is named" says '^skipped .* gpu_machine_test'
check "JSON: not ok" json '"ok": false,'
good
program b/bin/gpu_machine_test 'printf "%s\n" "[  PASSED  ] 3 tests." "[  SKIPPED ] 2 tests, listed below:"'
expect "tests that did not see the GPU" 1
check "they are counted" says '^skipped .* gpu_machine_test .*3 passed, 2 skipped'
good
GPUS='none: no NVIDIA driver' expect "a lombard that finds no GPU" 1
check "the doctor says so" says '^failed .* doctor .*finds no GPU'
good
rm "$scratch/b/bin/gpu_kernels_test"
expect "no kernel tests" 1
check "they are missing" says '^missing .* gpu_kernels_test'
good
program b/bin/gpu_kernels_test 'exit 1'
expect "a failed test" 1
check "the others ran" says '^passed .* gpu_attention_bench'
good
SANITIZER=9 expect "the sanitizer found something" 1
good
program tools/compute-sanitizer 'exit 127'
CUDA_PATH=$scratch/none expect "no sanitizer that starts" 1
check "it is said" says '^skipped .* memcheck .*no compute-sanitizer'
check "it is said of both" says '^skipped .* racecheck .*no compute-sanitizer'
check "JSON: not ok" json '"ok": false,'
good
mkdir "$scratch/b/compute-sanitizer"
program b/compute-sanitizer/compute-sanitizer 'exit 0'
SANITIZER=9 expect "the bundle's sanitizer comes first" 0
good
HELP='' expect "a lombard that knows no device" 1
check "lending is missing" says '^missing .* lending'
good
REMOTE=0 expect "nothing was lent" 1
good
ANSWERS='{"token_ids":[7,8,1]}
{"token_ids":[4,5]}' expect "a wrong token" 1
check "answers are counted" says '^failed .* lending-fp32 .*1 of 2 answers'
good
ANSWERS='{"token_ids":[7,8,9]}' expect "an answer is missing" 1
good
rm "$scratch/b/bin/gpu_attention_bench"
expect "no benchmarks" 1
good
program b/bin/gpu_attention_bench ''
expect "a benchmark without figures" 1
# `timeout` with the limit of a moment for the one program that never ends: the others have all the time they want.
good
program b/bin/gpu_machine_test 'sleep 1000'
program tools/timeout "[[ \$* == *gpu_machine_test ]] && set -- \"\$1\" 0.1 \"\${@:3}\"; exec $(command -v timeout) \"\$@\""
expect "a program that does not end" 1
check "it is named" says '^timed out .* gpu_machine_test'
check "the others ran" says '^passed .* gpu_attention_bench'
good
program b/bin/gpu_attention_bench 'echo "| 1 x 8192 | 4.5 |"; echo "{\"rows\": [2]}" > "$2"; exit 124'  # as timeout ends
expect "a benchmark that does not end" 1
check "it is named" says '^timed out .* gpu_attention_bench'
check "its figures are kept" json '"gpu_attention_bench": {"rows": [2]}'
check "its table is kept" says '^\| 1 x 8192 \| 4.5 \|$'
good
LOMBARD_GPU_CHECK_SECONDS=0 expect "the time is used up" 1
check "what did not run is named" says '^not run .* gpu_attention_bench .*the time is used up'
((failures == 0)) && echo "gpu_check_test: ok"
exit $((failures != 0))
