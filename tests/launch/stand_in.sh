#!/usr/bin/env bash
# Stands in for the lombard binary: launch_test.sh runs it under launch/run. The first argument names the plot.
set -u
rank=${OMPI_COMM_WORLD_RANK:?}
finish() {
  echo "$1" > "$LOMBARD_RUN_DIR/rank.$rank.status"
  exit "$1"
}
case $1 in
  ok) echo "rank $rank of ${OMPI_COMM_WORLD_SIZE}: ${*:2}"; finish 0 ;;
  echo-stdin) ((rank == 0)) && cat; finish 0 ;;
  usage) finish 2 ;;
  one-fails) ((rank == 1)) && finish 7; finish 0 ;;
  one-dies) ((rank == 1)) && kill -KILL $$; sleep 1; finish 0 ;;
  one-lingers) ((rank == 1)) && finish 5; sleep 600; finish 0 ;;
  sleep) touch "$LOMBARD_RUN_DIR/rank.$rank.sleeps"; sleep 600; finish 0 ;;
esac
