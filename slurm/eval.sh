#!/usr/bin/env bash
# Evaluate trained models on a corpus: an array of workers runs propose and classify, then a job scores.
#   sbatch slurm/eval.sh [RUN [DATASET]]     from the checkout; bash slurm/eval.sh [RUN [DATASET]] runs one worker on this machine
# RUN contains the runs rcp/ and rc/: by default runs/, where launch/rcp.py and launch/rc.py write; or the folder of a pipeline or
# of the demo. DATASET is a labelled corpus, by default the dev corpus of the RCP run.
# The results are RUN/eval-NAME/{scores.json,report.html}. The same command again resumes.
# Most sites change the options below. Options of sbatch override them: sbatch --array=0-31 --gpus=0 --partition=long slurm/eval.sh …
#SBATCH --job-name=lmrc-eval
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
set -euo pipefail
# The id of this task. SLURM_JOB_ID of an array's last task is the id of the whole array.
task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}; task=${task:-${SLURM_JOB_ID:-}}
# Workers of a job check their node first. On a bad one they end with this status, and the task is requeued without the node.
if [ -n "$task" ]; then export LMRC_CHECK_NODE=1; fi
broken_node=86
worker= stopped=
forward_stop() { if [ -n "$worker" ]; then kill -USR2 "$worker" 2>/dev/null || true; fi; }
trap forward_stop TERM
trap 'stopped=1; forward_stop' USR2
cd "${SLURM_SUBMIT_DIR:-.}"
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi

run=${1:-runs}
start=(python)  # if the models were trained in a container, the workers run in it too
corpus_of_rcp() { python -c 'import pathlib, sys, lmrc.runs.run_folder; print(lmrc.runs.run_folder.read_config(pathlib.Path(sys.argv[1]))["data"][sys.argv[2]])' "$run/rcp" "$1"; }
# The first task runs the pre-flight for all: if it fails, it prints why and cancels the others.
if [ "${LMRC_EVAL_STEP:-}" != score ] && [ "${SLURM_ARRAY_TASK_ID:-}" = "${SLURM_ARRAY_TASK_MIN:-}" ]; then
  if ! dataset=$(python -m lmrc.launcher.preflight.evaluation "$run" ${2:+"$2"}); then
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
      scancel "${SLURM_ARRAY_JOB_ID}_[$((SLURM_ARRAY_TASK_MIN + 1))-$SLURM_ARRAY_TASK_MAX]" 2>/dev/null || true
    fi
    exit 2
  fi
else
  dataset=${2:-$(corpus_of_rcp dev 2>/dev/null)} || exit 2
fi
words=$(python -m lmrc.launcher.slurm.container "$run" "$dataset")
if [ -n "$words" ]; then mapfile -t start <<< "$words"; fi
out=$run/eval-$(basename "$dataset")

score() {
  local train; train=$(corpus_of_rcp train)
  lmrc report "$out/classify" "$run/rcp" "$run/rc" --train-facts "$train" --out "$out"
  lmrc score --gold "$dataset" --pred "$out/classify/predictions.json" --train-facts "$train" \
    --candidates "$out/propose/candidates" --json "$out/scores.json"
}

# work STAGE OPTIONS…: run a worker until the stage is done. On a signal the worker releases its unit: on USR2 before the time
# limit and, if the site sends it, before preemption; otherwise on TERM at the end of the grace time.
# The task requeues itself, also after its worker or node died or the node failed its check, but not after scancel.
work() {
  local stage=$1 status; shift
  local config=(); if [ -f "$run/$stage/config.yaml" ]; then config=(--config "$run/$stage/config.yaml"); fi
  until [ -e "$out/$stage/DONE" ]; do  # another worker may be merging, and may die
    "${start[@]}" "launch/$stage.py" "${config[@]}" --where here --run "$stage" --run.folder "$out" --corpus "$dataset" "$@" &
    worker=$!
    if [ -n "$stopped" ]; then forward_stop; fi  # a signal came before the worker started
    while status=0; wait $worker || status=$?; kill -0 $worker 2>/dev/null; do :; done  # a signal ends `wait`, not the worker
    worker=
    if [ -n "$stopped" ]; then scontrol requeue "$task"
    elif [ $status -gt 128 ] || [ $status -eq $broken_node ]; then python -m lmrc.launcher.slurm.requeue "$out/$stage" $status 100; fi
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
