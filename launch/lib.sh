# Shared by the scripts of launch/ and ci/: sourced, never run. Sets ROOT and enters it.
# shellcheck shell=bash
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

note() { printf '%s\n' "$*" >&2; }
die() {  # die MESSAGE [STATUS]
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit "${2:-1}"
}

# The comment block at the top of a script is its help text.
print_help() { awk 'NR == 1 {next} /^#/ {sub(/^# ?/, ""); print; next} {exit}' "$0"; }

# Cores this process may use: affinity first (nproc), then the CPU quota of either cgroup version.
usable_cores() {
  local cores quota period v1=/sys/fs/cgroup/cpu
  cores=$(nproc)
  quota=max period=100000
  if [[ -r /sys/fs/cgroup/cpu.max ]]; then
    read -r quota period < /sys/fs/cgroup/cpu.max
  elif [[ -r $v1/cpu.cfs_quota_us && -r $v1/cpu.cfs_period_us ]]; then
    read -r quota < $v1/cpu.cfs_quota_us
    read -r period < $v1/cpu.cfs_period_us
  fi
  if [[ $quota =~ ^[0-9]+$ ]] && ((quota > 0 && (quota + period - 1) / period < cores)); then
    cores=$(((quota + period - 1) / period))
  fi
  echo "$cores"
}

# Compile jobs: one per core, as long as each has 1.5 GiB (a guess: the heaviest files, those with JSON or
# protobuf headers under a sanitizer, stay below it). LOMBARD_JOBS wins.
build_jobs() {
  if [[ -n ${LOMBARD_JOBS:-} ]]; then
    echo "$LOMBARD_JOBS"
    return
  fi
  local cores memory_kib limit by_memory
  cores=$(usable_cores)
  memory_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  for limit in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    if [[ -r $limit && $(< "$limit") =~ ^[0-9]{1,15}$ ]] && (($(< "$limit") / 1024 < memory_kib)); then
      memory_kib=$(($(< "$limit") / 1024))
    fi
  done
  by_memory=$((memory_kib / (1536 * 1024)))
  ((by_memory < 1)) && by_memory=1
  echo $((cores < by_memory ? cores : by_memory))
}
