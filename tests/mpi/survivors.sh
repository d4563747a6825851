#!/usr/bin/env bash
# Usage: survivors.sh COUNT COMMAND...
#
# Runs COMMAND (an mpirun, whose exit status says nothing once a rank was lost under --enable-recovery) and checks that
# COUNT ranks recorded a good end.
set -euo pipefail
count=$1
shift
LOMBARD_OUTCOME_DIR=$(mktemp -d)
export LOMBARD_OUTCOME_DIR
trap 'rm -rf "$LOMBARD_OUTCOME_DIR"' EXIT
"$@" || echo "launcher: exit status $?"
found=$(find "$LOMBARD_OUTCOME_DIR" -name 'rank.*' | wc -l)
if ((found != count)); then
  echo "$found ranks ended well, not $count"
  exit 1
fi
