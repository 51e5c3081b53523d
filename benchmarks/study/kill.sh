#!/usr/bin/env bash
# A step of run.sh whose training is killed (kill -9) at random moments and begun again, which must not change what comes out.
#   benchmarks/study/kill.sh FOLDER STEP RUN TIMES     (such as rcp rcp-66; the environment as for run.sh)
# RUNS/kills.log says when each was killed, and after which step.
set -uo pipefail
folder=${1:?the folder of run.sh} step=${2:?a step of run.sh that trains} run=${3:?its training run} times=${4:?how often to kill}
: "${RUNS:=runs/study}" "${SHORTEST:=300}" "${LONGEST:=720}"   # seconds from a start to its kill
export RUNS
here=$(cd "$(dirname "$0")" && pwd)
folder=$(cd "$folder" && pwd) || exit 2
cd "$here/../.."   # as run.sh does: RUNS may be relative
killed=0
while [ "$killed" -lt "$times" ]; do
  "$here/run.sh" "$folder" "$step" &
  launcher=$!
  end=$((SECONDS + SHORTEST + RANDOM % (LONGEST - SHORTEST + 1)))
  while [ $SECONDS -lt $end ] && kill -0 $launcher 2>/dev/null; do sleep 1; done
  kill -0 $launcher 2>/dev/null || break   # done before its time
  rank=$(pgrep -f "submitit.core._submit .*$RUNS/$run/log" | head -n 1)
  if [ -n "$rank" ]; then
    killed=$((killed + 1))
    echo "$(date -u +%FT%TZ) $run: kill -9 of process $rank, kill $killed, after $(tail -n 1 "$RUNS/$run/metrics.jsonl" | cut -d, -f1)}" |
      tee -a "$RUNS/kills.log"
    kill -9 "$rank"
  fi
  wait $launcher   # it says what happened, and ends
done
exec "$here/run.sh" "$folder" "$step"
