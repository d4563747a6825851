#!/usr/bin/env bash
# Goal: a bundle runs where nothing is installed. Method: a root that holds a shell, the bundle and nothing else;
# in it lombard answers, a test program passes, a stand-in for NCCL loads, and two ranks find each other over loopback, by the
# environment alone, and lend. Needs root, for chroot and a mount namespace; skipped (77) without.
# shellcheck disable=SC2016  # the stand-in expands for itself, and the loader
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
preset=$(basename "$1")  # of the folder with lombard and bin/
if ((EUID != 0)) || ! unshare --mount true 2> /dev/null; then
  echo "skipped: needs root and mount namespaces"
  exit 77
fi
scratch=$(mktemp -d)
trap 'rm -rf --one-file-system "$scratch"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

# Libraries as NVIDIA's: loaded when they are wanted, named by soname and by version, needing what went into the C library.
merged=(libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1)
cuda=$scratch/cuda
mkdir -p "$cuda"/{lib,compute-sanitizer/docs}
touch "$cuda/compute-sanitizer/docs/index.html" "$cuda/compute-sanitizer/libsanitizer.so"
printf '#!/bin/sh\n[ "$1" = --version ] && echo stand-in\n' > "$cuda/compute-sanitizer/compute-sanitizer"
chmod +x "$cuda/compute-sanitizer/compute-sanitizer"
{
  printf 'void nccl%s(void) {}\n' GetUniqueId CommInitRankConfig CommAbort CommGetAsyncError Send Recv AllReduce
  echo 'int ncclGetVersion(int *version) { *version = 99999; return 0; } const char *ncclGetErrorString(int result) { return "stand-in"; }'
} | "${CC:-cc}" -shared -fPIC -x c - -o "$cuda/lib/libnccl.so.2" -Wl,--no-as-needed,-rpath,'$ORIGIN' "${merged[@]/#/-l:}" || fail "no stand-in for NCCL"
cp "$cuda/lib/libnccl.so.2" "$cuda/lib/libcublasLt.so.99.1.2"
ln -s libcublasLt.so.99.1.2 "$cuda/lib/libcublasLt.so.99"

programs=(kvpool_test)
[[ ! -x $root/build/$preset/bin/nccl_library_test ]] || programs+=(nccl_library_test)
bundle=$scratch/root/opt/elsewhere/lombard
cd "$scratch" || exit 1
"$root/launch/bundle" --preset "$preset" --cuda-libraries none "$bundle" kvpool_test || fail "launch/bundle"
[[ ! -e $bundle/lib/libnccl.so.2 && ! -e $bundle/lib/libcublasLt.so.99 && ! -e $bundle/compute-sanitizer ]] || fail "none: they are there"
for name in "${merged[@]}"; do [[ -e $bundle/lib/$name ]] || fail "no $name, which the host's NCCL needs"; done
"$root/launch/bundle" --preset "$preset" --cuda-libraries cuda/lib "$bundle" "${programs[@]}" || fail "a bundle is replaced"
[[ -s $bundle/lib/libnccl.so.2 && -s $bundle/lib/libcublasLt.so.99 && ! -e $bundle/lib/libcublasLt.so.99.1.2 ]] || fail "libraries of CUDA"
[[ $("$bundle/compute-sanitizer/compute-sanitizer" --version) == stand-in && -e $bundle/compute-sanitizer/libsanitizer.so ]] || fail "compute-sanitizer"
[[ ! -e $bundle/compute-sanitizer/docs ]] || fail "compute-sanitizer's documentation"
"$root/launch/bundle" --preset "$preset" --cuda-libraries nowhere "$scratch/other" 2> /dev/null && fail "a folder that is not there was taken"
mkdir "$scratch/taken"
"$root/launch/bundle" --preset "$preset" "$scratch/taken" 2> /dev/null && fail "a folder that is no bundle was taken"

cd "$scratch/root" || exit 1
mkdir -p bin lib64 tmp proc sys dev  # the last three are the kernel's, as everywhere
cp -L "$(readlink -f /bin/sh)" bin/sh
ldd bin/sh | awk '$2 == "=>" {print $3} $1 ~ /^\// {print $1}' | while IFS= read -r library; do
  mkdir -p ".$(dirname "$library")" && cp -L "$library" ".$library"
done
inside() {
  # shellcheck disable=SC2016  # the inner shells expand it
  timeout 200 unshare --mount sh -c 'mount -t proc proc "$0/proc" && mount --rbind /sys "$0/sys" && mount --rbind /dev "$0/dev" && exec chroot "$0" /bin/sh -c "cd /opt/elsewhere/lombard && $1"' "$scratch/root" "$1"
}

inside './lombard --version' | grep -q '^lombard ' || fail "lombard --version"
inside './lombard doctor' | grep -q '^summary: ' || fail "lombard doctor"
for program in "${programs[@]}"; do inside "./bin/$program --gtest_brief=1" || fail "$program"; done  # 77: NCCL does not load

# Two ranks as srun --mpi=none starts them; the prompt fits into none of them alone.
awk 'BEGIN { printf "{\"prompt\": ["; for (i = 0; i < 200; ++i) printf "%s%d", i ? ", " : "", 5 + i % 90; print "], \"max_tokens\": 8, \"ignore_eos\": true}" }' > opt/in.jsonl
rank() {
  inside "SLURM_JOB_ID=$$ SLURM_STEP_ID=0 SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=2 SLURM_PROCID=$1 ./lombard generate --model tests/data/tiny --threads 1 --kv-tokens 176 --dead-after 30s \
    --block-tokens 16 --input /opt/in.jsonl --output /opt/out.jsonl --report /opt/report"
}
rank 1 &
rank 0 || fail "rank 0"
wait $! || fail "rank 1"
grep -q '"token_ids"' opt/out.jsonl || fail "no answer: $(cat opt/out.jsonl)"
grep -qE '"remote_steps": ?[1-9]' opt/report/report.json || fail "nothing was attended remotely"
echo "bundle_test: ok"
