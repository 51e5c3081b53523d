#!/usr/bin/env bash
# The paper's claim on real documents of Re-DocRED: with a classifier in front of it the LM finds more than when it is asked
# about all pairs, at less cost.
#   benchmarks/study/run.sh FOLDER [STEP ...]      (FOLDER holds redocred_train_992.json and redocred_dev.json)
# Steps are all of those below without any named. Every step is a run that resumes: the same command again goes on where it
# stopped, and finished steps only print their result. The result is RUNS/summary.json and RUNS/summary.md.
#   ENCODER and LM    the two models; with ENCODER=roberta-large LM=meta-llama/Llama-2-13b-chat-hf those of the paper
#   SAMPLE            dev documents that all systems are asked about
#   RUNS              folder of the runs
set -euo pipefail
: "${ENCODER:=embedded:minilm}" "${LM:=embedded:smollm2}" "${SAMPLE:=20}" "${RUNS:=runs/study}"
folder=$(cd "${1:?give the folder that holds redocred_train_992.json and redocred_dev.json}" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH="$root/.venv/bin:$PATH"
cd "$root"
data=$RUNS/data sample=$RUNS/data/dev-$SAMPLE
train=(--data.train "$data/train_992")

run() { echo "== $2 =="; python "launch/$1.py" --where local --run.folder "$RUNS" --run "$2" "${@:3}"; }
# NAME CONFIG [OPTION ...]
fine_tune() { run rc "$1" --config "$here/$2.yaml" "${train[@]}" --data.dev "$data/dev-2" --model.base "$LM" "${@:3}"; }
# NAME CORPUS ADAPTER [OPTION ...]
answer() { run classify "$1" --corpus "$2" --rc "$RUNS/$3/best" --decode.batch_size 32 "${@:4}"; }

data() {
  mkdir -p "$data"
  for part in train_992 dev; do
    [ -d "$data/$part" ] || lmrc data build "$folder/redocred_$part.json" --out "$data/$part"
  done
  # All that a fine-tuning measures: what it is worth, the answers will say.
  [ -d "$data/dev-2" ] || lmrc data build "$folder/redocred_dev.json" --out "$data/dev-2" --sample 2 --seed 67
  [ -d "$sample" ] || lmrc data build "$folder/redocred_dev.json" --out "$sample" --sample "$SAMPLE" --seed 66
}
rcp() { run rcp rcp --config "$here/rcp.yaml" "${train[@]}" --data.dev "$data/dev" --model.encoder "$ENCODER"; }
propose() {
  run propose propose --corpus "$sample" --rcp "$RUNS/rcp/best"
  run propose propose-dev --corpus "$data/dev" --rcp "$RUNS/rcp/best"
}
rc() { fine_tune rc rc; }
rc-gold() { answer rc-gold "$sample" rc; }
lmrc-sample() { answer lmrc "$sample" rc --candidates "$RUNS/propose/candidates"; }
# All pairs of a document are many queries: a batch is full with a few documents, and little is lost by a kill.
direct() { fine_tune direct direct; answer direct-answers "$sample" direct --work.docs_per_unit 4; }
# Three pairs without a relation for each with one: None is not all there is to learn. So too for the LM that takes RCP's
# place, which would learn to say No, as direct learns to say None.
direct-3() {
  fine_tune direct-3 direct --train.negative_ratio 3
  answer direct-3-answers "$sample" direct-3 --work.docs_per_unit 4
}
rcp-llm() {
  fine_tune rcp-llm rcp-llm --train.negative_ratio 3
  answer rcp-llm-answers "$sample" rcp-llm --work.docs_per_unit 4
  answer lmrc-llm "$sample" rc --candidates "$RUNS/rcp-llm-answers/candidates"
}
# What the error analysis asks for: fewer pairs lost to RCP, then fewer relations lost to RC.
ideas() {
  run propose propose-f1 --corpus "$sample" --rcp "$RUNS/rcp/best" --threshold f1
  answer lmrc-f1 "$sample" rc --candidates "$RUNS/propose-f1/candidates"
  answer lmrc-f1-weighed "$sample" rc --candidates "$RUNS/propose-f1/candidates" --decode.mode score
}
lmrc-dev() { answer lmrc-dev "$data/dev" rc --candidates "$RUNS/propose-dev/candidates"; }
# Scores and costs, and the report of all that is finished; in the paper's tables only lmrc-dev, on the whole of dev.
summary() {
  python "$here/summary.py" "$RUNS" --train "$data/train_992"
  local finished=()
  for name in lmrc direct-answers direct-3-answers lmrc-llm rc-gold lmrc-f1 lmrc-dev rcp; do
    [ ! -f "$RUNS/$name/DONE" ] || finished+=("$RUNS/$name")
  done
  lmrc report "${finished[@]}" --train-facts "$data/train_992" --out "$RUNS/report"
}

[ $# -gt 0 ] || set -- data rcp propose rc rc-gold lmrc-sample ideas lmrc-dev direct direct-3 rcp-llm summary
for step in "$@"; do "$step"; done
