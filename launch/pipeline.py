"""The whole chain, build → rcp → propose → rc → classify → score: only what is missing is submitted.

`python launch/pipeline.py --config configs/pipeline/redocred-13b.yaml --gpus 8`
"""

import sys

try:
    from lmrc.launcher.pipeline import main
except ModuleNotFoundError as error:
    sys.exit(f"Error: {error}: activate the environment first, by typing . .venv/bin/activate")

if __name__ == "__main__":
    sys.exit(main())
