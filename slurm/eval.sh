#!/usr/bin/env bash
# Evaluate trained models on a corpus: workers propose candidates and name relations, a job after them scores.
#   sbatch slurm/eval.sh [RUN [DATASET]]     from the checkout; bash slurm/eval.sh [RUN [DATASET]] is one worker, here
# RUN holds rcp/ and rc/: runs, as launch/rcp.py and launch/rc.py leave it, is the default; launch/pipeline.py and lmrc demo leave
# such a folder too. DATASET is a labelled corpus; the default is the dev corpus that RCP was measured on.
# The result is RUN/eval-NAME/{scores.json,report.html}; the same command again does what is missing.
# Below is what most sites change; options of sbatch win over it: sbatch --array=0-31 --gpus=0 --partition=long slurm/eval.sh …
#SBATCH --job-name=lmrc-eval
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
set -euo pipefail
# This task alone: the id of an array's last task is that of the whole array.
task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; task=${task:-${SLURM_JOB_ID:-}}
worker= stopped=
tell() { if [ -n "$worker" ]; then kill -USR2 "$worker" 2>/dev/null || true; fi; }
trap tell TERM
trap 'stopped=1; tell' USR2
cd "${SLURM_SUBMIT_DIR:-.}"
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi

run=${1:-runs}
# The pre-flight: if there is nothing to evaluate, the first task says so and ends the others.
if ! dataset=$(python -m lmrc.launcher.preflight.evaluation "$run" ${2:+"$2"}); then
  if [ "${SLURM_ARRAY_TASK_ID:-}" = "${SLURM_ARRAY_TASK_MIN:-none}" ]; then
    scancel "${SLURM_ARRAY_JOB_ID}_[$((SLURM_ARRAY_TASK_MIN + 1))-$SLURM_ARRAY_TASK_MAX]" 2>/dev/null || true
  fi
  exit 2
fi
corpus_of_rcp() { python -c 'import pathlib, sys, lmrc.runs.run_folder; print(lmrc.runs.run_folder.read_config(pathlib.Path(sys.argv[1]))["data"][sys.argv[2]])' "$run/rcp" "$1"; }
out=$run/eval-$(basename "$dataset")

score() {
  local train; train=$(corpus_of_rcp train)
  lmrc report "$out/classify" "$run/rcp" "$run/rc" --train-facts "$train" --out "$out"
  lmrc score --gold "$dataset" --pred "$out/classify/predictions.json" --train-facts "$train" \
    --candidates "$out/propose/candidates" --json "$out/scores.json"
}

# work STAGE OPTIONS…: take part in the stage until it is done. A worker that is told to stop gives back what it was at: told
# by USR2 before the time limit, and when it is preempted if the site sends that; else by TERM when the grace is over.
# Its task comes back by itself, also when its worker or its node died; from scancel it does not.
work() {
  local stage=$1 status; shift
  local config=(); if [ -f "$run/$stage/config.yaml" ]; then config=(--config "$run/$stage/config.yaml"); fi
  until [ -e "$out/$stage/DONE" ]; do  # another worker may be merging, and may die of it
    python "launch/$stage.py" "${config[@]}" --where here --run "$stage" --run.folder "$out" --corpus "$dataset" "$@" &
    worker=$!
    if [ -n "$stopped" ]; then tell; fi  # a signal came while there was nobody to tell
    while status=0; wait $worker || status=$?; kill -0 $worker 2>/dev/null; do :; done  # a signal ends `wait`, not the worker
    worker=
    if [ -n "$stopped" ]; then scontrol requeue "$task"
    elif [ $status -gt 128 ]; then python -m lmrc.launcher.slurm.requeue "$out/$stage" $status 100; fi
    if [ $status -ne 0 ]; then exit $status; fi
    sleep 2
  done
}

if [ "${LMRC_EVAL_STEP:-}" = score ]; then score; exit; fi
if [ "${SLURM_ARRAY_TASK_ID:-}" = "${SLURM_ARRAY_TASK_MIN:-none}" ] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
  mkdir -p "$out"
  LMRC_EVAL_STEP=score sbatch --job-name=lmrc-score --output="$out/score-%j.out" \
    --dependency="afterany:$SLURM_ARRAY_JOB_ID" --wrap "$(printf '%q ' bash slurm/eval.sh "$run" "$dataset")"
fi
work propose --rcp "$run/rcp/best"
work classify --candidates "$out/propose/candidates" --rc "$run/rc/best"
if [ -z "${SLURM_ARRAY_JOB_ID:-}" ]; then score; fi
