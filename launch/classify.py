"""Classify the relations of candidate pairs.

`python launch/classify.py --candidates runs/propose/candidates --rc runs/rc-redocred-13b/best`
"""

import sys

try:
    from lmrc.launcher.launch import main
    from lmrc.launcher.stages import CLASSIFY
except ModuleNotFoundError as error:
    sys.exit(f"Error: {error}: activate the environment first, by typing . .venv/bin/activate")

if __name__ == "__main__":
    sys.exit(main(CLASSIFY))
