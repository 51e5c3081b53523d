#!/usr/bin/env bash
# Dev scores of RCP over seeds: MiniLM on 992 training documents of Re-DocRED, ten epochs a seed, measured after each.
#   benchmarks/real/score.sh FOLDER [RECIPE] [SEED ...] [--OPTION VALUE ...]
# FOLDER holds redocred_train_992.json and redocred_dev.json. RECIPE is plus (what paid), paper (the paper's) or published
# (the paper's with the published code's classifier), those of rcp-RECIPE.yaml; plus if none is given. Seeds are 66, 67
# and 68 if none are given; options are those of launch/rcp.py. Every seed is a run that resumes: the same command again
# goes on where it stopped. With RUNS=FOLDER the runs are kept there, in place of runs/real.
set -euo pipefail
folder=$(cd "${1:?give the folder that holds redocred_train_992.json and redocred_dev.json}" && pwd)
shift
recipe=plus
case ${1-} in plus | paper | published)
  recipe=$1
  shift
  ;;
esac
seeds=()
while [[ ${1-} =~ ^[0-9]+$ ]]; do
  seeds+=("$1")
  shift
done
[ ${#seeds[@]} -gt 0 ] || seeds=(66 67 68)
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export PATH="$root/.venv/bin:$PATH"
cd "$root"
runs=${RUNS:-runs/real}
mkdir -p "$runs/data"

for part in train_992 dev; do
  [ -d "$runs/data/$part" ] || lmrc data build "$folder/redocred_$part.json" --out "$runs/data/$part"
done
for seed in "${seeds[@]}"; do
  python launch/rcp.py --where local --run.folder "$runs" --run "rcp-$recipe-$seed" --config "$here/rcp-$recipe.yaml" \
    --data.train "$runs/data/train_992" --data.dev "$runs/data/dev" --run.seed "$seed" "$@"
done

# The scores of the weights in best/, in percent.
python - "$runs" "$recipe" "${seeds[@]}" <<'END'
import json, sys
from pathlib import Path

names = {"precision": "P", "recall": "R", "f1": "F1", "best_f1": "best F1", "average_precision": "AP"}
rows = []
runs, recipe, *seeds = sys.argv[1:]
for seed in seeds:
    run = Path(runs) / f"rcp-{recipe}-{seed}"
    step = json.loads((run / "DONE").read_text())["best_step"]
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    (row,) = [line for line in lines if line["step"] == step and "dev_f1" in line]
    rows.append([row[f"dev_{name}"] for name in names])
    shown = (f"{name} {value:.2f}" for name, value in zip(names.values(), rows[-1]))
    print(f"{recipe}, seed {seed}, step {step}:", *shown)
means = [sum(column) / len(rows) for column in zip(*rows)]
print(f"{recipe}, mean of {len(rows)}:", *(f"{name} {value:.2f}" for name, value in zip(names.values(), means)))
END
