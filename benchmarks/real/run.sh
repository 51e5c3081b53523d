#!/usr/bin/env bash
# Both stages on real documents, on a laptop: MiniLM and SmolLM2-135M on 992 training documents of Re-DocRED.
#   benchmarks/real/run.sh FOLDER     (FOLDER holds redocred_train_992.json and redocred_dev.json)
# Every step is a run that resumes: the same command again goes on where it stopped.
set -euo pipefail
folder=${1:?give the folder that holds redocred_train_992.json and redocred_dev.json}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH="$root/.venv/bin:$PATH"
cd "$root"
data=runs/real/data
mkdir -p "$data"

# The first 20 documents of dev: what the LM is asked about.
python -c 'import json, sys; json.dump(json.load(open(sys.argv[1]))[:20], open(sys.argv[2], "w"))' \
  "$folder/redocred_dev.json" "$data/dev-20.json"
for part in train_992 dev; do
  [ -d "$data/$part" ] || lmrc data build "$folder/redocred_$part.json" --out "$data/$part"
done
[ -d "$data/dev-20" ] || lmrc data build "$data/dev-20.json" --out "$data/dev-20"
lmrc data stats "$data/dev"

run() { python "launch/$1.py" --where local --run.folder runs/real "${@:2}"; }
run rcp --config "$here/rcp.yaml" --run rcp
run propose --run propose-dev --corpus "$data/dev" --rcp runs/real/rcp/best
run propose --run propose --corpus "$data/dev-20" --rcp runs/real/rcp/best
run rc --config "$here/rc.yaml" --run rc
run classify --run classify --corpus "$data/dev-20" --candidates runs/real/propose/candidates --rc runs/real/rc/best \
  --decode.batch_size 4
lmrc report runs/real/classify runs/real/rcp runs/real/rc --train-facts "$data/train_992" --out runs/real
lmrc score --gold "$data/dev-20" --pred runs/real/classify/predictions.json --train-facts "$data/train_992" \
  --ign-variant redocred --json runs/real/scores.json
