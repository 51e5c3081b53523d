"""Run all stages: build, rcp, propose, rc, classify, score. Finished stages are skipped.

`python launch/pipeline.py --config configs/pipeline/redocred-13b.yaml --gpus 8`
"""

import sys

try:
    from lmrc.launcher.pipeline import main
except ModuleNotFoundError as error:
    sys.exit(f"Error: {error}: activate the environment first, by typing . .venv/bin/activate")

if __name__ == "__main__":
    sys.exit(main())
