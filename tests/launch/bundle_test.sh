#!/usr/bin/env bash
# Goal: a bundle runs where nothing is installed. Method: a root that holds a shell, the bundle and nothing else;
# in it lombard answers, a test program passes, and two ranks find each other over loopback and lend. Needs root, for
# chroot and a mount namespace; skipped (77) without.
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

"$root/launch/bundle" --preset "$preset" "$scratch/root/opt/elsewhere/lombard" kvpool_test || fail "launch/bundle"
"$root/launch/bundle" --preset "$preset" "$scratch/root/opt/elsewhere/lombard" kvpool_test || fail "a bundle is replaced"
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
inside './bin/kvpool_test --gtest_brief=1' || fail "kvpool_test"

# Two ranks started by hand; the prompt fits into none of them alone.
port=$((28000 + $$ % 4700))  # as in tests/fabric/processes_test.sh
awk 'BEGIN { printf "{\"prompt\": ["; for (i = 0; i < 200; ++i) printf "%s%d", i ? ", " : "", 5 + i % 90; print "], \"max_tokens\": 8, \"ignore_eos\": true}" }' > opt/in.jsonl
rank() {
  inside "./lombard generate --rank $1 --size 2 --rendezvous 127.0.0.1:$port --model tests/data/tiny --threads 1 --kv-tokens 176 --dead-after 30s \
    --block-tokens 16 --input /opt/in.jsonl --output /opt/out.jsonl --report /opt/report"
}
rank 1 &
rank 0 || fail "rank 0"
wait $! || fail "rank 1"
grep -q '"token_ids"' opt/out.jsonl || fail "no answer: $(cat opt/out.jsonl)"
grep -qE '"remote_steps": ?[1-9]' opt/report/report.json || fail "nothing was attended remotely"
echo "bundle_test: ok"
