#!/usr/bin/env bash
# Two stages beside each alone, on real documents of Re-DocRED, over three seeds.
#   benchmarks/study/run.sh FOLDER [STEP ...]      (FOLDER holds redocred_train_992.json and redocred_dev.json)
# Without a STEP all are run. Every step is a run that resumes: the same command again goes on where it stopped, and finished
# steps only print their result. The result is RUNS/summary.json and RUNS/summary.md.
#   ENCODER and LM    the two models; with ENCODER=roberta-large LM=meta-llama/Llama-2-13b-chat-hf those of the paper
#   SEEDS             seeds of all trainings
#   SAMPLE            dev documents of direct and rc-gold, which take long
#   RUNS              folder of the runs
set -euo pipefail
: "${ENCODER:=embedded:minilm}" "${LM:=embedded:smollm2}" "${SEEDS:=66 67 68}" "${SAMPLE:=20}" "${RUNS:=runs/study}"
folder=$(cd "${1:?give the folder that holds redocred_train_992.json and redocred_dev.json}" && pwd)
shift
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH="$root/.venv/bin:$PATH"
cd "$root"
data=$RUNS/data dev=$RUNS/data/dev train=$RUNS/data/train_992
# Folds of the encoder, and the tenth of the documents, kept from the LM, that the fusion is fitted on.
folds=$data/folds lm=$data/lm/9

run() { echo "== $2 =="; python "launch/$1.py" --where local --run.folder "$RUNS" --run "$2" "${@:3}"; }
seeds() { for seed in $SEEDS; do "$@" "$seed"; done; }
# NAME CORPUS SEED
encoder() {
  run rcp "$1" --config "$here/rcp.yaml" --data.train "$2" --data.dev "$data/dev-$SAMPLE" --model.encoder "$ENCODER" --run.seed "$3"
}
# NAME CONFIG SEED [OPTION ...]
fine_tune() {
  run rc "$1" --config "$here/$2.yaml" --data.train "$train" --data.dev "$data/dev-2" --model.base "$LM" --run.seed "$3" "${@:4}"
}
# NAME CORPUS ADAPTER [OPTION ...]
answer() { run classify "$1" --corpus "$2" --rc "$RUNS/$3/best" --decode.batch_size 32 "${@:4}"; }

data() {
  mkdir -p "$data"
  for part in train_992 dev; do
    [ -d "$data/$part" ] || lmrc data build "$folder/redocred_$part.json" --out "$data/$part"
  done
  # Trainings are measured on a few documents, for their curves: dev selects no weights (train.keep last).
  [ -d "$data/dev-2" ] || lmrc data build "$folder/redocred_dev.json" --out "$data/dev-2" --sample 2 --seed 67
  [ -d "$data/dev-$SAMPLE" ] || lmrc data build "$folder/redocred_dev.json" --out "$data/dev-$SAMPLE" --sample "$SAMPLE" --seed 66
  [ -d "$folds" ] || lmrc data split "$train" --folds 2 --out "$folds"
  [ -d "$data/lm" ] || lmrc data split "$train" --folds 10 --out "$data/lm"
}
# An encoder of each half of the training documents proposes candidates in the other half.
folds() {
  for fold in 0 1; do
    encoder "rcp-fold$fold" "$folds/$fold/train" 66
    run propose "propose-fold$fold" --corpus "$folds/$fold/held-out" --rcp "$RUNS/rcp-fold$fold/best" --threshold 0.03 \
      --relation_threshold 0.5
  done
  [ -d "$data/candidates" ] ||
    lmrc data join-candidates "$RUNS"/propose-fold{0,1}/candidates --corpus "$lm/held-out" --out "$data/candidates"
}
rcp() { encoder "rcp-$1" "$train" "$1"; }
# The encoder alone, and the candidates of LMRC at the paper's threshold.
propose() {
  run propose "propose-$1" --corpus "$dev" --rcp "$RUNS/rcp-$1/best" --threshold 0.03 --relation_threshold f1
  run propose "pairs-$1" --corpus "$dev" --rcp "$RUNS/rcp-$1/best" --threshold 0.5 --relation_threshold 0.5
}
# The LM scores the relations that the encoder finds possible.
likelihood() {
  run rc "likelihood-$1" --config "$here/likelihood.yaml" --model.base "$LM" --run.seed "$1" \
    --data.train "$lm/train" --data.dev "$lm/held-out"
  run classify "held-out-$1" --corpus "$lm/held-out" --candidates "$data/candidates" --rc "$RUNS/likelihood-$1/best" \
    --decode.mode score
  [ -f "$RUNS/fusion-$1.json" ] || lmrc fusion fit --corpus "$lm/held-out" --candidates "$data/candidates" \
    --answers "$RUNS/held-out-$1" --out "$RUNS/fusion-$1.json"
}
# The LM is asked about all candidates, alone and fused, and then only where it can change the answer.
fused() {
  local candidates=$RUNS/propose-$1/candidates rc=$RUNS/likelihood-$1/best fusion=$RUNS/fusion-$1.json
  run classify "lm-$1" --corpus "$dev" --candidates "$candidates" --rc "$rc" --decode.mode score --decode.threshold 0.01
  run classify "fused-all-$1" --corpus "$dev" --candidates "$candidates" --answers "$RUNS/lm-$1" --system fused \
    --fusion "$fusion" --ask all
  run classify "fused-band-$1" --corpus "$dev" --candidates "$candidates" --rc "$rc" --decode.mode score --system fused \
    --fusion "$fusion" --ask band
}
# The paper's recipe.
lmrc-paper() {
  fine_tune "rc-$1" rc "$1"
  answer "lmrc-$1" "$dev" "rc-$1" --candidates "$RUNS/pairs-$1/candidates"
}
# The same with all queries of an epoch, in place of a sixth of them.
lmrc-epoch() {
  fine_tune "rc-epoch-$1" rc "$1" --train.max_steps none
  answer "lmrc-epoch-$1" "$dev" "rc-epoch-$1" --candidates "$RUNS/pairs-$1/candidates"
}
rc-gold() { answer "rc_gold-$1" "$data/dev-$SAMPLE" "rc-$1"; }
# Three pairs without a relation for each with one: trained on all pairs, the LM only learns to say None.
direct() {
  fine_tune "direct-$1" direct "$1" --train.negative_ratio 3
  answer "direct-answers-$1" "$data/dev-$SAMPLE" "direct-$1" --work.docs_per_unit 4
}
# Not among the steps that run without a STEP: an LM in the place of RCP, table 5 of the paper.
rcp-llm() {
  fine_tune "rcp-llm-$1" rcp-llm "$1" --train.negative_ratio 3
  answer "rcp-llm-answers-$1" "$data/dev-$SAMPLE" "rcp-llm-$1" --work.docs_per_unit 4
  answer "lmrc-llm-$1" "$data/dev-$SAMPLE" "rc-$1" --candidates "$RUNS/rcp-llm-answers-$1/candidates"
}
baselines() {
  for system in type_prior bag_of_words; do
    [ -f "$RUNS/$system-$1/DONE" ] || python "$here/baselines.py" "$system" --train "$train" --corpus "$dev" \
      --candidates "$RUNS/pairs-$1/candidates" --out "$RUNS/$system-$1/predictions.json" --seed "$1"
  done
}
# Scores and costs, and the report of the first seed.
summary() {
  # shellcheck disable=SC2086
  python "$here/summary.py" "$RUNS" --train "$train" --seeds $SEEDS
  local finished=() first=${SEEDS%% *}
  for name in "fused-all-$first" "fused-band-$first" "propose-$first" "lmrc-$first" "lmrc-epoch-$first" "rcp-$first"; do
    [ ! -f "$RUNS/$name/DONE" ] || finished+=("$RUNS/$name")
  done
  lmrc report "${finished[@]}" --train-facts "$train" --out "$RUNS/report"
}

[ $# -gt 0 ] || set -- data folds rcp propose likelihood fused lmrc-paper lmrc-epoch rc-gold direct baselines summary
for step in "$@"; do
  case $step in
    data | folds | summary) "$step" ;;
    *) seeds "$step" ;;
  esac
done
